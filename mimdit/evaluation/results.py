"""The results table: per-image scores in, means by degradation group and over all out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mimdit.evaluation.metrics import PSNR_OF_IDENTICAL

Row = Mapping[str, str | float]
"""Scores of one image by name, beside its ``group`` and ``key``."""


def unique_rows(rows: Iterable[Row]) -> list[Row]:
    """One row per (group, key), in that order: a distributed sampler pads its last batch with images that others have too."""
    by_sample = {(row["group"], row["key"]): row for row in rows}
    return [by_sample[sample] for sample in sorted(by_sample)]


def summarize(rows: Iterable[Row]) -> dict[str, dict]:
    """Average scores.

    A group whose inputs all equal their truths (images that needed nothing) is in the table but not in the two averages: the PSNR of its
    inputs has no value, only a cap, and would stand for most of the average of the inputs. ``left_out`` names such groups; where there are
    no others, they are averaged all the same.

    Args:
        rows: Distinct rows, each with ``group``, ``key`` and the same scores, of which ``psnr_input`` is one.

    Returns:
        ``groups`` (by name: the mean of each score, and ``images``), ``average`` over images, ``average_over_groups``, ``left_out``.

    Raises:
        ValueError: there are no rows, or a score is no finite number.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("no image was scored, so there is nothing to average; evaluate on at least one image")
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(row["group"], []).append(row)
    groups = {name: _mean(members[name]) for name in sorted(members)}
    left_out = [name for name in groups if all(row["psnr_input"] >= PSNR_OF_IDENTICAL for row in members[name])]
    counted = [name for name in groups if name not in left_out] or list(groups)
    average_over_groups = _mean([groups[name] for name in counted]) | {"images": sum(groups[name]["images"] for name in counted)}
    average = _mean([row for name in counted for row in members[name]])
    return {"groups": groups, "average": average, "average_over_groups": average_over_groups, "left_out": left_out}


def _mean(rows: list[Row]) -> dict[str, float | int]:
    names = [name for name in rows[0] if name not in ("group", "key", "images")]
    for row in rows:
        broken = [name for name in names if not math.isfinite(row[name])]
        if broken:
            image = f"{row.get('group')}/{row.get('key')}"
            raise ValueError(f"{broken[0]} of image {image} is {row[broken[0]]}: the model returned values that are no numbers")
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in names} | {"images": len(rows)}
