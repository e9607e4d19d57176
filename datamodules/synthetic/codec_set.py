"""Test set of compressed photographs: a group for each codec and quality. Not in the paper."""

from __future__ import annotations

from datamodules.degradations.codecs import CODECS, require_codecs
from datamodules.rng import named_rng
from datamodules.synthetic.quickstart import Recipe


def codec_recipes(names: list[str], codecs: list[str], severities: list[float], *, size: int, draws: int, seed: int) -> list[Recipe]:
    """Plan ``draws`` crops of every photograph, each compressed by every codec at every severity's quality.

    Raises:
        ValueError: A codec is unknown or not installed, or a severity is outside 0..1.
    """
    require_codecs(codecs)
    bad = [severity for severity in severities if not 0.0 <= severity <= 1.0]
    if bad:
        raise ValueError(f"severities must lie in 0..1, not {bad[0]}")
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
