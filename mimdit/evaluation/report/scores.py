"""What a run scored: means by degradation group and over groups and images, from ``results.jsonl`` or, without it, ``results.json``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimdit.evaluation.metrics import PSNR_OF_IDENTICAL

ROWS_NAME, AGGREGATES_NAME = "results.jsonl", "results.json"
GROUP_MEAN, IMAGE_MEAN = "mean of groups", "mean of images"
"""Columns beside those of the groups."""


@dataclass(frozen=True)
class Mean:
    """A mean over ``images`` images; ``missing`` more have no value of the metric."""

    value: float
    images: int = 0
    missing: int = 0


Key = tuple[str, str, str]
"""Benchmark, side (``output`` or ``input``) and metric, by pyiqa's name."""


@dataclass
class Scores:
    """What a run scored, by benchmark, side and metric, then by group, `GROUP_MEAN` or `IMAGE_MEAN`.

    ``routing`` has by benchmark and group the mean gates of its images: ``inter [blocks][G]`` and ``intra [blocks][G][E]``. ``remarks`` are
    for the reader of a table.
    """

    name: str
    folder: Path
    means: dict[Key, dict[str, Mean]] = field(default_factory=dict)
    routing: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_run(named: str) -> Scores:
    """Read a run's scores.

    Args:
        named: The run's folder, whose name is the run's, or ``name=folder``.

    Raises:
        ValueError: It holds neither file, or one that is not what it should be; the message names the line.
    """
    name, equals, place = named.partition("=")
    folder = Path(place if equals else named)
    scores = Scores(name if equals else folder.resolve().name, folder)
    if (folder / ROWS_NAME).is_file():
        _add_rows(scores, list(_read_rows(folder / ROWS_NAME)))
    elif (folder / AGGREGATES_NAME).is_file():
        _add_aggregates(scores, folder / AGGREGATES_NAME)
    else:
        raise ValueError(f"{folder} holds neither {ROWS_NAME} nor {AGGREGATES_NAME}; test the run first: lightning test --config …")
    return scores


def _read_rows(path: Path) -> Iterable[dict[str, Any]]:
    """The lines of ``results.jsonl``, each image once."""
    seen = set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            sample = str(row["benchmark"]), str(row["group"]), str(row["key"])
            for side in ("output", "input"):
                for metric, value in row[side].items():
                    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                        raise ValueError(f"{metric} of the {side} is {value!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is no image's result ({type(error).__name__}: {error}); test the run again") from error
        if sample not in seen:  # a distributed sampler may give an image to two ranks
            seen.add(sample)
            yield row
    if not seen:
        raise ValueError(f"{path} holds no image's result; test the run again")


def _add_rows(scores: Scores, rows: list[dict[str, Any]]) -> None:
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["benchmark"] == benchmark:
                groups.setdefault(row["group"], []).append(row)
        left_out = [name for name, members in groups.items() if all(_needed_nothing(row) for row in members)]
        left_out = left_out if len(left_out) < len(groups) else []
        if left_out:
            scores.remarks.append(f"{scores.name}, {benchmark}: {', '.join(left_out)} needed nothing and is in no mean.")
        counted = [name for name in groups if name not in left_out]
        for side in ("output", "input"):
            for metric in dict.fromkeys(metric for members in groups.values() for row in members for metric in row[side]):
                means = {name: _mean([row[side].get(metric) for row in members]) for name, members in groups.items()}
                scores.means[benchmark, side, metric] = _with_averages(means, counted)
        _remark_on_missing(scores, benchmark, groups)
        _add_routing(scores, benchmark, groups)


def _needed_nothing(row: dict[str, Any]) -> bool:
    return (row["input"].get("psnr") or 0.0) >= PSNR_OF_IDENTICAL


def _mean(values: list[float | None]) -> Mean:
    there = [value for value in values if value is not None]
    return Mean(math.fsum(there) / len(there) if there else math.nan, len(there), len(values) - len(there))


def _with_averages(means: dict[str, Mean], counted: list[str]) -> dict[str, Mean]:
    """Add the mean of groups and that of images; groups in which no image has a value count in neither."""
    there = [means[name] for name in counted if means[name].images]
    images, missing = sum(mean.images for mean in there), sum(means[name].missing for name in counted)
    if there:
        of_groups = math.fsum(mean.value for mean in there) / len(there)
        of_images = math.fsum(mean.value * mean.images for mean in there) / images
        return means | {GROUP_MEAN: Mean(of_groups, images, missing), IMAGE_MEAN: Mean(of_images, images, missing)}
    return means


def _remark_on_missing(scores: Scores, benchmark: str, groups: dict[str, list[dict[str, Any]]]) -> None:
    reasons = Counter(
        (metric, str((row.get("notes") or {}).get(metric, "no reason given")))
        for members in groups.values()
        for row in members
        for metric, value in row["output"].items()
        if value is None
    )
    for (metric, reason), number in sorted(reasons.items()):
        scores.remarks.append(f"{scores.name}, {benchmark}: {number} images have no {metric} ({reason}); means are over the others.")


def _add_routing(scores: Scores, benchmark: str, groups: dict[str, list[dict[str, Any]]]) -> None:
    for name, members in groups.items():
        routed = [row["routing"] for row in members if row.get("routing")]
        if routed:
            gates = [_average([routing[which] for routing in routed]) for which in ("inter", "intra")]
            scores.routing.setdefault(benchmark, {})[name] = (gates[0], gates[1])


def _average(nested: list[Any]) -> Any:
    """The mean of equally nested lists of numbers."""
    if isinstance(nested[0], list):
        return [_average(list(parts)) for parts in zip(*nested, strict=True)]
    return math.fsum(nested) / len(nested)


def _add_aggregates(scores: Scores, path: Path) -> None:
    """Take the means of ``results.json``, whose benchmark is not named: the data module's test set."""
    try:
        table = json.loads(path.read_text())
        groups, averages = table["groups"], {GROUP_MEAN: table["average_over_groups"], IMAGE_MEAN: table["average"]}
        for column, row in {**groups, **averages}.items():
            for name, value in row.items():
                metric, _, side = name.partition("_")
                if side in ("output", "input"):
                    scores.means.setdefault(("test", side, metric), {})[column] = Mean(float(value), int(row["images"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no table of results ({type(error).__name__}: {error}); test the run again") from error
    scores.remarks.append(
        f"{scores.name} has no {ROWS_NAME}: its means are those of {AGGREGATES_NAME}, PSNR and SSIM of its test set alone."
    )
    if table.get("left_out"):
        scores.remarks.append(f"{scores.name}, test: {', '.join(table['left_out'])} needed nothing and is in no mean.")
