"""Results of a test as files: one JSON line per image, and their means, in a versioned form; two older forms can be read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimdit.core.files import replace_when_whole
from mimdit.evaluation.summary import SIDES, ScoreRow, image_of, sides_of, summarize

SCHEMA = 1
"""Version of ``results.json``."""

ROWS_NAME, RESULTS_NAME = "results.jsonl", "results.json"

DATA_MODULE_TEST_SET = "test"
"""Name of the test set that a data module gives as ``data.test``."""

_OLD_IDENTICAL_DB = 80.0 - 1e-3
"""Results before schema 1 mark inputs that equal their truths only by the PSNR that pyiqa gives them: 80 dB."""

_OLD_QUALITY_NAMES = {"psnr": "psnr_rgb", "ssim": "ssim_rgb"}
"""Today's names of the metrics that ``callbacks.Quality`` wrote before schema 1."""


@dataclass(frozen=True)
class Results:
    """Results of a test.

    Attributes:
        summaries: The means of each test set, see `mimdit.evaluation.summary.summarize`.
        rows: Scores of each image; empty where only the means were kept.
        settings: The settings that the numbers depend on.
        missing_weights: Missing weight files by metric.
    """

    summaries: dict[str, dict[str, Any]]
    rows: list[ScoreRow] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    missing_weights: dict[str, str] = field(default_factory=dict)


def write_results(path: Path, results: Results) -> Path:
    """Write the means to ``path``, such as ``results.json``, and the rows beside it as ``.jsonl``, whose path is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows_path = path.with_suffix(".jsonl")
    content = {
        "schema": SCHEMA,
        "test_sets": results.summaries,
        "missing_weights": results.missing_weights,
        "settings": results.settings,
    }
    with replace_when_whole(rows_path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in results.rows))
    with replace_when_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    return rows_path


def read_results(folder: Path) -> Results:
    """Read the results in a folder: of schema 1, or of ``callbacks.Scores`` or ``callbacks.Quality`` before it.

    The means, and the groups left out of them, come from ``results.json``. If that file is missing, or is `Quality`'s older one beside the
    rows of `Scores`, the means are computed from the rows.

    Raises:
        ValueError: The folder holds no results, they are damaged, of a newer schema, or rows and means are not of the same test.
    """
    rows_path, path = folder / ROWS_NAME, folder / RESULTS_NAME
    if not rows_path.is_file() and not path.is_file():
        raise ValueError(f"{folder} holds neither {ROWS_NAME} nor {RESULTS_NAME}; test the run first: mimdit test --config …")
    rows = list(_read_rows(rows_path)) if rows_path.is_file() else []
    if not path.is_file():
        return Results(summarize(rows), rows)
    try:
        content = json.loads(path.read_text())
        schema = content.get("schema")
        if schema not in (None, SCHEMA):
            raise _NewerSchemaError(f"{path} has schema {schema}, this version reads up to {SCHEMA}; update mimdit, or test the run again")
        summaries = content.get("test_sets") if schema else content.get("benchmarks")
        if summaries is None:
            summaries = summarize(rows) if rows else {DATA_MODULE_TEST_SET: _of_old_quality(content)}
        _check_summaries(summaries)
        settings, missing = content.get("settings", {}), content.get("missing_weights", {})
    except _NewerSchemaError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a table of results ({type(error).__name__}: {error}); test the run again") from error
    if rows:
        _check_same_test(rows, summaries, rows_path, path)
    return Results(summaries, rows, settings, missing)


class _NewerSchemaError(ValueError):
    """Error for results that a later version wrote."""


def _read_rows(path: Path) -> Iterable[ScoreRow]:
    """Yield the row of each image once.

    Raises:
        ValueError: A line is damaged; the message gives its number.
    """
    seen = set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = _upgraded(json.loads(line))
            image = image_of(row)
            for side in sides_of(row):
                for metric, value in row[side].items():
                    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                        raise ValueError(f"{metric} of the {side} is {value!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}, line {number} is not an image's result ({reason}); test the run again") from error
        if image not in seen:  # a distributed sampler may give an image to two ranks
            seen.add(image)
            yield row
    if not seen:
        raise ValueError(f"{path} holds no image's result; test the run again")


def _upgraded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row converted to schema 1."""
    if "test_set" not in row:
        identical = (row["input"].get("psnr") or 0.0) >= _OLD_IDENTICAL_DB
        row = {"test_set": row["benchmark"], "identical_input": identical} | {key: row[key] for key in row if key != "benchmark"}
    names = {key: str(row[key]) for key in ("test_set", "group", "key")}
    plain = {"degradations": row.get("degradations") or [], "notes": row.get("notes") or {}}
    return row | names | plain | {"identical_input": bool(row["identical_input"]), "input": row["input"], "output": row["output"]}


def _of_old_quality(content: dict[str, Any]) -> dict[str, Any]:
    """Convert what `Quality` wrote before schema 1 to the summary of one test set."""
    groups = {name: _split_sides(means) for name, means in content["groups"].items()}
    left_out = [name for name in content.get("left_out", []) if name in groups]
    return {
        "mean_of_images": _split_sides(content["average"]),
        "mean_of_groups": _split_sides(content["average_over_groups"]),
        "groups": groups,
        "left_out": left_out if len(left_out) < len(groups) else [],
        "notes": {},
    }


def _split_sides(means: dict[str, Any]) -> dict[str, Any]:
    """Convert ``{"psnr_output": 20.0, "images": 2}`` to ``{"images": 2, "output": {"psnr_rgb": 20.0}}``."""
    split: dict[str, Any] = {"images": int(means["images"])}
    for side in SIDES:
        found = {today: float(means[f"{old}_{side}"]) for old, today in _OLD_QUALITY_NAMES.items() if f"{old}_{side}" in means}
        if found:
            split[side] = found
    return split


def _check_summaries(summaries: dict[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where a mean is missing or is not a number."""
    for summary in summaries.values():
        summary.setdefault("notes", {})
        summary["left_out"] = [str(name) for name in summary["left_out"]]
        for means in (summary["mean_of_images"], summary["mean_of_groups"], *summary["groups"].values()):
            int(means["images"]), means["output"], means["input"]
            for side in sides_of(means):
                for metric, value in means[side].items():
                    if value is not None and not math.isfinite(value):
                        raise ValueError(f"the mean {metric} of the {side} is {value}")


def _check_same_test(rows: list[ScoreRow], summaries: dict[str, Any], rows_path: Path, path: Path) -> None:
    counts = Counter(row["test_set"] for row in rows)
    for name in {*counts, *summaries}:
        averaged = sum(means["images"] for means in summaries.get(name, {"groups": {}})["groups"].values())
        if counts[name] != averaged:
            raise ValueError(
                f"{rows_path} holds {counts[name]} images of {name}, but the means in {path} are those of {averaged}; test the run again"
            )
