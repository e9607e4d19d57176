"""Print SHA-256 digests of the quickstart's validation and test pairs as JSON; run in a process of its own by test_frozen_quickstart.

With the argument ``all`` every pair, with ``one`` one draw of each photograph and group.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np

import datamodules.synthetic.quickstart as made

OPTIONS = {
    "train_images": 1, "size": 128, "clean": 0.3, "photograph_size": 256, "draws": 3, "severities": [0.3, 0.6, 0.9], "seed": 0,
}  # fmt: skip
"""Defaults of ``mimdit shards quickstart``; those of the training images matter to neither folder."""


def frozen_folders() -> dict[str, list[made.Recipe]]:
    """Return the recipes of ``validation`` and ``test``."""
    folders = made.quickstart_folders(Path(), **OPTIONS)
    return {split: folders[Path(split)] for split in ("validation", "test")}


def recipes_digest(recipes: list[made.Recipe]) -> str:
    """Return the SHA-256 of all fields of recipes, in their order."""
    return hashlib.sha256(json.dumps([recipe.fields() for recipe in recipes]).encode()).hexdigest()


def pixel_digests(recipes: list[made.Recipe], draws: str) -> dict[str, dict[str, str]]:
    """Return for each shard's name the SHA-256 of its images' decoded pixels, RGB, by side."""
    digests = {}
    for plan in made.plan_shards(Path(), recipes, shard_size=256):
        number = list(made.GROUPS).index(plan.group)
        sides = {"lq": hashlib.sha256(), "gt": hashlib.sha256()}
        for recipe in plan.recipes:
            if draws == "all" or f"-draw{_draw(recipe, number)}-" in recipe.key:
                sample = made.make_sample(recipe)
                for side, digest in sides.items():
                    digest.update(decoded(sample[f"{side}.png"]))
        digests[plan.path.name] = {side: digest.hexdigest() for side, digest in sides.items()}
    return digests


@functools.cache
def decoded(png: bytes) -> bytes:
    """Return the RGB bytes of a PNG."""
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].tobytes()


def _draw(recipe: made.Recipe, number: int) -> int:
    """Return the draw that stands for a photograph in its group; it changes from group to group, and with it the severity."""
    return number % OPTIONS["draws"] if recipe.source in made.TEST else 0


if __name__ == "__main__":
    cv2.setNumThreads(1)
    made.photograph_crop = functools.cache(made.photograph_crop)
    encode = functools.cache(lambda pixels, shape, encoded=made._encode: encoded(np.frombuffer(pixels, np.uint8).reshape(shape)))
    made._encode = lambda image: encode(image.tobytes(), image.shape)  # each truth once
    print(json.dumps({split: pixel_digests(recipes, sys.argv[1]) for split, recipes in frozen_folders().items()}))
