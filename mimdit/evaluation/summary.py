"""Means of image scores over test sets, each image counted once, and their text table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

ScoreRow = Mapping[str, Any]
"""Scores of one image: ``test_set``, ``group``, ``key``, ``degradations``; ``identical_input``, true where the degraded input equals the
truth in all 8-bit values, so that the image needs nothing; for each of `SIDES` that was scored, a dict from metric to number or None;
``notes`` with the reason for each None; and ``routing``, if it was recorded.
"""

SIDES = ("input", "output", "estimate", "residuals_zeroed", "gates_uniform")
"""Images that are scored: the degraded input, the restored output, the conditioner's estimate, and the output of two ablations."""

DASH = "-"
"""Placeholder for a missing score."""


def unique_rows(rows: Iterable[ScoreRow], test_sets: Iterable[str] = ()) -> list[ScoreRow]:
    """Return one row per image, in order of ``test_sets``, group and key.

    If the images do not divide evenly over the ranks, some are scored twice.
    """
    order = {name: place for place, name in enumerate(test_sets)}
    by_image = {(order.get(row["test_set"], len(order)), *image_of(row)): row for row in rows}
    return [by_image[image] for image in sorted(by_image)]


def image_of(row: ScoreRow) -> tuple[str, str, str]:
    """Return the test set, group and key of a row, which are unique together."""
    return row["test_set"], row["group"], row["key"]


def summarize(rows: Iterable[ScoreRow]) -> dict[str, dict]:
    """Average the scores of each test set.

    PSNR is the mean of the images' decibels. ``mean_of_images`` is over images, ``mean_of_groups`` over the groups' means (FoundIR's
    published 27.81 dB is one of those), ``isolated`` and ``coupled`` over images with one and with several degradations. An image without a
    score does not count; ``scored`` gives the number that did, if not all did. A group whose images all have ``identical_input`` counts
    only in its own mean, unless there are no other groups: the PSNR of its inputs has no value, only a cap. ``left_out`` names such groups.

    Args:
        rows: Distinct rows.

    Returns:
        By test set ``mean_of_images``, ``mean_of_groups``, ``isolated`` and ``coupled`` if there are such images, and ``groups`` by name,
        each ``{"images": int, side: {metric: mean or None}, …}``; ``left_out``; and ``notes``, the reasons for missing scores by metric,
        with their counts.

    Raises:
        ValueError: There are no rows, or a score is not finite.
    """
    test_sets: dict[str, list[ScoreRow]] = {}
    for row in rows:
        _check_finite(row)
        test_sets.setdefault(row["test_set"], []).append(row)
    if not test_sets:
        raise ValueError("no image was scored, so there is nothing to average; evaluate on at least one image")
    return {name: _summary(members) for name, members in test_sets.items()}


def _check_finite(row: ScoreRow) -> None:
    for side in sides_of(row):
        for metric, value in row[side].items():
            if value is not None and not math.isfinite(value):
                raise ValueError(
                    f"{metric} of the {side} of image {row['group']}/{row['key']} is {value}; the model returned values like it"
                )


def sides_of(scores: Mapping[str, Any]) -> list[str]:
    """Return those of `SIDES` that a row or a mean holds, in their order."""
    return [side for side in SIDES if side in scores]


def _summary(rows: list[ScoreRow]) -> dict[str, Any]:
    members: dict[str, list[ScoreRow]] = {}
    for row in rows:
        members.setdefault(row["group"], []).append(row)
    groups = {name: _means(members[name]) for name in sorted(members)}
    unneeded = [name for name in groups if all(row["identical_input"] for row in members[name])]
    left_out = unneeded if len(unneeded) < len(groups) else []
    counted = [row for row in rows if row["group"] not in left_out]
    summary = {"mean_of_images": _means(counted)}
    summary["mean_of_groups"] = _mean_of_means([means for name, means in groups.items() if name not in left_out], len(counted))
    for name, chosen in (("isolated", lambda count: count == 1), ("coupled", lambda count: count > 1)):
        if these := [row for row in counted if chosen(len(row["degradations"]))]:
            summary[name] = _means(these)
    notes: dict[str, dict[str, int]] = {}
    for row in rows:
        for metric, reason in row["notes"].items():
            notes.setdefault(metric, {})[reason] = notes.get(metric, {}).get(reason, 0) + 1
    return summary | {"groups": groups, "left_out": left_out, "notes": notes}


def _means(rows: list[ScoreRow]) -> dict[str, Any]:
    means: dict[str, Any] = {"images": len(rows)}
    scored: dict[str, int] = {}
    for side in sides_of(rows[0]):
        means[side] = {}
        for metric in dict.fromkeys(metric for row in rows for metric in row.get(side, {})):
            values = [value for row in rows if (value := row.get(side, {}).get(metric)) is not None]
            means[side][metric] = math.fsum(values) / len(values) if values else None
            if 0 < len(values) < len(rows):
                scored[metric] = min(len(values), scored.get(metric, len(rows)))
    return means | ({"scored": scored} if scored else {})


def _mean_of_means(groups: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """Average the groups' means; a group without a value of a metric does not count in it."""
    mean: dict[str, Any] = {"images": images}
    for side in sides_of(groups[0]):
        mean[side] = {}
        for metric in dict.fromkeys(metric for means in groups for metric in means[side]):
            values = [value for means in groups if (value := means[side].get(metric)) is not None]
            mean[side][metric] = math.fsum(values) / len(values) if values else None
    return mean


def format_summary(name: str, summary: dict[str, Any]) -> str:
    """Return one test set of `summarize` as text: for each mean and each group a line per side that was scored."""
    metrics = list(summary["mean_of_images"]["output"])
    lines = {"mean of images": summary["mean_of_images"], "mean of groups": summary["mean_of_groups"]}
    lines |= {part: summary[part] for part in ("isolated", "coupled") if part in summary}
    lines |= summary["groups"] if len(summary["groups"]) > 1 else {}
    sides = sides_of(summary["mean_of_images"])
    label, side_width = max(map(len, [name, *lines])), max(map(len, sides))
    widths = [max(9, len(metric)) for metric in metrics]
    cells = [f"{name:<{label}} {'images':>6} {'':<{side_width}}", *(f"{metric:>{width}}" for metric, width in zip(metrics, widths))]
    rows = ["  ".join(cells)]
    for line, means in lines.items():
        for side in sides:
            first = f"{line:<{label}} {means['images']:>6}" if side == sides[0] else " " * (label + 7)
            numbers = (f"{format_score(means[side].get(metric)):>{width}}" for metric, width in zip(metrics, widths))
            rows.append("  ".join([f"{first} {side:<{side_width}}", *numbers]))
    if summary["left_out"]:
        rows.append(f"in no mean, as their inputs equal their truths: {', '.join(summary['left_out'])}")
    for metric, reasons in summary["notes"].items():
        rows += [f"{metric}: {count} without a score: {reason}" for reason, count in reasons.items()]
    return "\n".join(rows)


def format_score(value: float | None) -> str:
    """Return a score with three or, below 10, four decimals; `DASH` for None."""
    if value is None:
        return DASH
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.3f}"
