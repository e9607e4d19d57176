"""Paired differences between two runs: the same images under both, with bootstrap intervals. Not in the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mimdit.core.markdown import markdown_row
from mimdit.evaluation.report.runs import Run
from mimdit.evaluation.report.tables import lower_is_better
from mimdit.evaluation.summary import image_of

RESAMPLES = 10_000
"""Bootstrap resamples."""

LEVEL = 0.95
"""Coverage of intervals."""

_CHUNK = 4_000_000
"""Maximum number of drawn indices in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the mean with the ends, signed."""
        digits = 2 if abs(self.mean) >= 1 else 4
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"

    @property
    def excludes_zero(self) -> bool:
        """True if both ends have the same sign."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Differences of one metric on one test set, second run minus first.

    Attributes:
        test_set: Name of the test set.
        metric: Name of the metric.
        first: Name of the first run.
        second: Name of the second run.
        images: Number of images scored in both runs.
        of_images: Difference of the means over images.
        of_groups: Difference of the means over groups; images are resampled inside their groups.
        better: Number of images with a better score in the second run; None where the metric's direction is unknown.
        equal: Number of images with equal scores.
    """

    test_set: str
    metric: str
    first: str
    second: str
    images: int
    of_images: Interval
    of_groups: Interval
    better: int | None
    equal: int


def compare_runs(first: Run, second: Run, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Comparison]:
    """Compare the outputs of two runs image by image.

    Images are matched by test set, group and key; those without a score in one of the runs, and groups that are left out of means, do not
    count.

    Args:
        first: The run that is subtracted.
        second: The other run.
        seed: Seed of the bootstrap.
        resamples: Bootstrap resamples.

    Returns:
        One comparison for each test set and metric of both runs, in the order of the first.

    Raises:
        ValueError: A run holds only means, or the runs have no image in common.
    """
    for run in (first, second):
        if not run.results.rows:
            raise ValueError(f"{run.folder} holds only means; comparing needs the scores of each image: test the run again")
    others = {image_of(row): row for row in second.results.rows}
    left_out = {
        (name, group) for run in (first, second) for name, summary in run.results.summaries.items() for group in summary["left_out"]
    }
    differences: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in first.results.rows:
        other = others.get(image_of(row))
        if other is None or (row["test_set"], row["group"]) in left_out:
            continue
        for metric, value in row["output"].items():
            if value is not None and (against := other["output"].get(metric)) is not None:
                differences.setdefault((row["test_set"], metric), {}).setdefault(row["group"], []).append(against - value)
    if not differences:
        raise ValueError(f"{first.name} and {second.name} have no scored image in common; test both on the same test sets")
    return [_compare(first.name, second.name, *place, groups, seed, resamples) for place, groups in differences.items()]


def _compare(
    first: str, second: str, test_set: str, metric: str, groups: Mapping[str, list[float]], seed: int, resamples: int
) -> Comparison:
    by_group = [np.asarray(values) for values in groups.values()]
    pooled = np.concatenate(by_group)
    lower = lower_is_better(metric)
    better = None if lower is None else int(np.sum(pooled < 0 if lower else pooled > 0))
    return Comparison(
        test_set,
        metric,
        first,
        second,
        len(pooled),
        bootstrap_interval([pooled], seed=seed, resamples=resamples),
        bootstrap_interval(by_group, seed=seed, resamples=resamples),
        better,
        int(np.sum(pooled == 0)),
    )


def bootstrap_interval(strata: Sequence[np.ndarray], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """Return the mean of the strata's means with its percentile bootstrap interval (Efron and Tibshirani, 1993).

    Args:
        strata: Differences, one vector per stratum; each is resampled with replacement by itself.
        seed: Seed; equal seeds give equal intervals.
        resamples: Number of resamples.
        level: Coverage, between 0 and 1.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for values in strata:
        step = max(1, _CHUNK // len(values))
        for start in range(0, resamples, step):
            count = min(step, resamples - start)
            means[start : start + count] += values[rng.integers(len(values), size=(count, len(values)))].mean(axis=1) / len(strata)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([values.mean() for values in strata])), float(low), float(high))


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Return Markdown with one line per comparison; differences whose interval excludes 0 are bold."""
    lines = [
        f"## Paired differences ({100 * LEVEL:.0f} % bootstrap intervals over images)",
        "",
        "| runs | test set | metric | images | mean of images | mean of groups | images improved |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in comparisons:
        improved = "-" if each.better is None else f"{each.better} ({100 * each.better / each.images:.0f} %)"
        shown = [f"**{interval}**" if interval.excludes_zero else str(interval) for interval in (each.of_images, each.of_groups)]
        cells = [f"{each.second} - {each.first}", each.test_set, each.metric, str(each.images), *shown, improved]
        lines.append(markdown_row(cells))
    return "\n".join(lines) + "\n"


def comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """Return CSV with one line per comparison, unrounded."""
    head = "test_set,metric,first,second,images,of_images,of_images_low,of_images_high,of_groups,of_groups_low,of_groups_high,better,equal"
    lines = [head]
    for each in comparisons:
        numbers = [number for interval in (each.of_images, each.of_groups) for number in (interval.mean, interval.low, interval.high)]
        names = [name.replace(",", ";") for name in (each.test_set, each.metric, each.first, each.second)]
        lines.append(
            ",".join([*names, str(each.images), *map(repr, numbers), "" if each.better is None else str(each.better), str(each.equal)])
        )
    return "\n".join(lines) + "\n"
