"""Published figures, from data files that give the source of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mimdit.evaluation.report.runs import GROUP_MEAN, IMAGE_MEAN, Mean

EMBEDDED = Path(__file__).parent / "published"
_AVERAGES = {"group_mean": GROUP_MEAN, "image_mean": IMAGE_MEAN}


@dataclass(frozen=True)
class PublishedRow:
    """A method's published figures, by metric, then by group or average, and their source."""

    method: str
    source: str
    means: dict[str, dict[str, Mean]]


@dataclass(frozen=True)
class Published:
    """Published figures of a test set: its groups in the paper's order with short titles, and the rows."""

    test_set: str
    titles: dict[str, str]
    rows: tuple[PublishedRow, ...]


def load_published(files: Sequence[str | Path] = ()) -> dict[str, Published]:
    """Read the data files of the package, and ``files``, whose rows are added to the package's rows of the same test set.

    A file is YAML: ``test_set`` (or ``benchmark``, its older name), ``groups`` (name: short title, in the paper's order) and ``rows``,
    each with ``method``, ``source`` and by metric (pyiqa's name) ``groups`` (a list in that order), ``group_mean`` and ``image_mean``, all
    of them optional.

    Raises:
        ValueError: A file is missing or not of this form, or a row has no source.
    """
    found: dict[str, Published] = {}
    for path in [*sorted(EMBEDDED.glob("*.yaml")), *map(Path, files)]:
        read = _read(path)
        known = found.get(read.test_set)
        found[read.test_set] = read if known is None else Published(read.test_set, known.titles | read.titles, known.rows + read.rows)
    return found


def plain(name: str) -> str:
    """Return a test set's name for comparison: only letters and digits, in lower case."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _read(path: Path) -> Published:
    try:
        content = yaml.safe_load(path.read_text())
        titles = {str(name): str(title) for name, title in content.get("groups", {}).items()}
        rows = tuple(_row(row, list(titles)) for row in content["rows"])
        return Published(plain(content.get("test_set") or content["benchmark"]), titles, rows)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of published figures ({type(error).__name__}: {error})") from error


def _row(row: dict, groups: list[str]) -> PublishedRow:
    if not str(row["source"]).strip():
        raise ValueError(f"{row['method']} names no source")
    means: dict[str, dict[str, Mean]] = {}
    for metric, figures in row.items():
        if metric in ("method", "source"):
            continue
        means[metric] = {_AVERAGES[name]: Mean(float(value)) for name, value in figures.items() if name in _AVERAGES}
        if unknown := set(figures) - {*_AVERAGES, "groups"}:
            raise ValueError(f"{metric} of {row['method']} has {', '.join(sorted(unknown))}; known are groups, {', '.join(_AVERAGES)}")
        if "groups" in figures:
            means[metric] |= {name: Mean(float(value)) for name, value in zip(groups, figures["groups"], strict=True)}
    return PublishedRow(str(row["method"]), str(row["source"]), means)
