"""Scores of a run: means by degradation group and over groups and images, as its test stored them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimdit.evaluation.results import ROWS_NAME, Results, read_results
from mimdit.evaluation.summary import ScoreRow, sides_of

GROUP_MEAN, IMAGE_MEAN = "mean of groups", "mean of images"
"""Columns in addition to the groups'."""


@dataclass(frozen=True)
class Mean:
    """Mean over ``images`` images; ``missing`` further images have no value of the metric."""

    value: float
    images: int = 0
    missing: int = 0


Key = tuple[str, str, str]
"""Test set, side (one of `mimdit.evaluation.summary.SIDES`) and metric."""


@dataclass
class Run:
    """A run and its scores.

    Attributes:
        name: Its name in tables.
        folder: The folder of its results.
        results: The results as read.
        means: Means by test set, side and metric, then by group, `GROUP_MEAN` or `IMAGE_MEAN`.
        routing: Mean gates by test set and group, ``inter [blocks][G]`` and ``intra [blocks][G][E]``.
        remarks: Sentences for the reader of a table.
    """

    name: str
    folder: Path
    results: Results
    means: dict[Key, dict[str, Mean]] = field(default_factory=dict)
    routing: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def named_folder(text: str) -> tuple[str, Path]:
    """Return name and folder of ``name=folder``, or of a folder, which may have an equals sign; its name is then the folder's."""
    name, equals, place = text.partition("=")
    if equals and not Path(text).is_dir():
        return name, Path(place)
    return Path(text).resolve().name, Path(text)


def check_distinct(names: Sequence[str]) -> None:
    """Check that no two runs share a name.

    Raises:
        ValueError: Two do.
    """
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two runs are called {', '.join(doubled)}; name them, such as first=runs/a second=runs/b")


def read_run(named: str) -> Run:
    """Read a run's scores.

    Args:
        named: The run's folder, whose name is the run's, or ``name=folder``.

    Raises:
        ValueError: The folder holds no results, or damaged ones; the message gives the line.
    """
    name, folder = named_folder(named)
    run = Run(name, folder, read_results(folder))
    for test_set, summary in run.results.summaries.items():
        _add_means(run, test_set, summary)
        _add_remarks(run, test_set, summary)
    _add_routing(run)
    if not run.results.rows:
        run.remarks.append(f"{run.name} has no {ROWS_NAME}: only means, which cannot be compared image by image.")
    return run


def read_runs(named: Sequence[str]) -> list[Run]:
    """Read several runs, see `read_run`.

    Raises:
        ValueError: Two runs share a name, or one cannot be read.
    """
    runs = [read_run(each) for each in named]
    check_distinct([run.name for run in runs])
    return runs


def _add_means(run: Run, test_set: str, summary: dict[str, Any]) -> None:
    """Add a test set's stored means to ``run``, with the number of images behind each."""
    counted = [means for name, means in summary["groups"].items() if name not in summary["left_out"]]
    columns = {**summary["groups"], GROUP_MEAN: summary["mean_of_groups"], IMAGE_MEAN: summary["mean_of_images"]}
    for side in sides_of(summary["mean_of_images"]):
        for metric in summary["mean_of_images"][side]:
            means = {}
            for column, each in columns.items():
                value = each.get(side, {}).get(metric)
                scored = sum(_scored(group, side, metric) for group in (counted if column in (GROUP_MEAN, IMAGE_MEAN) else [each]))
                if column in (GROUP_MEAN, IMAGE_MEAN):
                    if value is None:
                        continue
                    scored = scored or each["images"]  # distances of sets have no groups
                means[column] = Mean(math.nan if value is None else value, scored, each["images"] - scored)
            run.means[test_set, side, metric] = means


def _scored(means: dict[str, Any], side: str, metric: str) -> int:
    """Return the number of images with a value of a metric in a group."""
    if means.get(side, {}).get(metric) is None:
        return 0
    return int(means.get("scored", {}).get(metric, means["images"]))


def _add_remarks(run: Run, test_set: str, summary: dict[str, Any]) -> None:
    if summary["left_out"]:
        groups = ", ".join(summary["left_out"])
        run.remarks.append(f"{run.name}, {test_set}: the inputs of {groups} equal their truths and are in no mean.")
    for metric, reasons in sorted(summary["notes"].items()):
        for reason, number in sorted(reasons.items()):
            run.remarks.append(f"{run.name}, {test_set}: {number} images have no {metric} ({reason}); means are over the others.")


def _add_routing(run: Run) -> None:
    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in run.results.rows:
        if row.get("routing"):
            groups.setdefault((row["test_set"], row["group"]), []).append(row["routing"])
    for (test_set, name), routings in groups.items():
        inter, intra = (_average([routing[gates] for routing in routings]) for gates in ("inter", "intra"))
        run.routing.setdefault(test_set, {})[name] = (inter, intra)


def _average(nested: list[Any]) -> Any:
    """Return the mean of equally nested lists of numbers."""
    if isinstance(nested[0], list):
        return [_average(list(parts)) for parts in zip(*nested, strict=True)]
    return math.fsum(nested) / len(nested)
