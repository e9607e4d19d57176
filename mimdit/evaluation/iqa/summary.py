"""From scores of images to those of benchmarks: means over images, over groups, over isolated and coupled degradations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
"""One image: ``benchmark``, ``group``, ``key``, ``degradations``; ``output`` and ``input``, scores by metric or None; ``notes``."""

IDENTICAL = 80.0
"""dB that pyiqa gives to images that agree in every value."""

SIDES = ("input", "output")


def each_once(rows: Iterable[Row], benchmarks: Iterable[str] = ()) -> list[Row]:
    """One row per image, in order of ``benchmarks``, group and key: ranks that do not divide the images get some twice."""
    order = {name: place for place, name in enumerate(benchmarks)}
    by_image = {(order.get(row["benchmark"], len(order)), row["benchmark"], row["group"], row["key"]): row for row in rows}
    return [by_image[image] for image in sorted(by_image)]


def summarize(rows: Iterable[Row]) -> dict[str, dict]:
    """Means by benchmark.

    PSNR is the mean of the images' decibels. ``mean_of_images`` is over images, ``mean_of_groups`` over the groups' means (FoundIR's
    published 27.81 dB is one of those), ``isolated`` and ``coupled`` over images with one and with several degradations. An image
    without a score does not count; ``scored`` tells how many did, where not all. A group whose inputs all equal their truths (images that
    needed nothing) counts in no mean but its own, unless there are no others: ``left_out`` names such groups.

    Returns:
        By benchmark ``mean_of_images``, ``mean_of_groups``, ``isolated`` and ``coupled`` where there are such, ``groups`` by name, each
        ``{"images": int, "input": {metric: mean or None}, "output": …}``, ``left_out``, and ``notes``, by metric the reasons for
        missing scores with their number.
    """
    benchmarks: dict[str, list[Row]] = {}
    for row in rows:
        benchmarks.setdefault(row["benchmark"], []).append(row)
    return {name: _summary(members) for name, members in benchmarks.items()}


def _summary(rows: list[Row]) -> dict[str, Any]:
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(row["group"], []).append(row)
    groups = {name: _means(members[name]) for name in sorted(members)}
    clean = [name for name in groups if all((row["input"].get("psnr") or 0) >= IDENTICAL - 1e-3 for row in members[name])]
    left_out = clean if len(clean) < len(groups) else []
    rows = [row for row in rows if row["group"] not in left_out]
    counted = [means for name, means in groups.items() if name not in left_out]
    summary = {"mean_of_images": _means(rows), "mean_of_groups": _means(counted) | {"images": len(rows)}}
    summary["mean_of_groups"].pop("scored", None)
    for name, chosen in (("isolated", lambda count: count == 1), ("coupled", lambda count: count > 1)):
        if these := [row for row in rows if chosen(len(row["degradations"]))]:
            summary[name] = _means(these)
    notes: dict[str, dict[str, int]] = {}
    for row in (row for name in groups for row in members[name]):
        for metric, reason in row["notes"].items():
            notes.setdefault(metric, {})[reason] = notes.get(metric, {}).get(reason, 0) + 1
    return summary | {"groups": groups, "left_out": left_out, "notes": notes}


def _means(rows: list[Row]) -> dict[str, Any]:
    means: dict[str, Any] = {"images": len(rows)}
    scored: dict[str, int] = {}
    for side in SIDES:
        means[side] = {}
        for metric in rows[0][side]:
            values = [row[side][metric] for row in rows if row[side][metric] is not None]
            means[side][metric] = math.fsum(values) / len(values) if values else None
            if 0 < len(values) < len(rows):
                scored[metric] = min(len(values), scored.get(metric, len(rows)))
    return means | ({"scored": scored} if scored else {})
