"""Test set of compressed photographs: a group for each codec and quality. Not in the paper."""

from __future__ import annotations

from datamodules.degradations.codecs import CODECS, require_codecs
from datamodules.rng import named_rng
from datamodules.synthetic.quickstart import Recipe

SMALLEST = 16
"""Smallest side of a crop in pixels."""


def codec_recipes(names: list[str], codecs: list[str], severities: list[float], *, size: int, draws: int, seed: int) -> list[Recipe]:
    """Plan ``draws`` crops of every photograph, each compressed by every codec at every severity's quality.

    Raises:
        ValueError: A codec is unknown, not installed or given twice, a severity is outside 0..1, two severities give a codec the same
            quality, or ``size``, ``draws`` or a list is too small.
    """
    for option, value, least in (("size", size, SMALLEST), ("draws", draws, 1)):
        if value < least:
            raise ValueError(f"{option} is {value}; it must be at least {least}.")
    if not codecs:
        raise ValueError(f"codecs is empty; give at least one of {', '.join(CODECS)}, or leave it out for all of them.")
    if not severities:
        raise ValueError("severities is empty; give at least one in 0..1, or leave it out for 0, 0.5 and 1.")
    require_codecs(codecs)
    bad = [severity for severity in severities if not 0.0 <= severity <= 1.0]
    if bad:
        raise ValueError(f"severities must lie in 0..1, not {bad[0]}")
    for place, codec in enumerate(codecs):
        if codec in codecs[:place]:
            raise ValueError(f"codecs names {codec} twice; name each codec once.")
        _check_distinct(codec, severities)
    recipes = []
    for codec in codecs:
        for severity in severities:
            quality = CODECS[codec].quality(severity)
            group = f"{codec.upper()}_Q{quality}"
            for place, name in enumerate(names):
                for draw in range(draws):
                    crop = int(named_rng(seed, "codec", name, draw).integers(2**31))  # the same for every codec
                    key = f"{group}/{place:04d}-draw{draw}"
                    recipes.append(Recipe(key, group, "folder", size, severity, crop, name, codec=codec, quality=quality))
    return recipes


def _check_distinct(codec: str, severities: list[float]) -> None:
    """Refuse severities of one quality: their groups and keys would be the same."""
    found: dict[int, float] = {}
    for severity in severities:
        quality = CODECS[codec].quality(severity)
        if quality in found:
            raise ValueError(
                f"severities {found[quality]} and {severity} both give {codec} the quality {quality}; qualities are whole numbers, so "
                "leave one out, or give severities further apart."
            )
        found[quality] = severity
