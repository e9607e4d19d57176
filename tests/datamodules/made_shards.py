"""Small folders of shards for the tests: every image is noise drawn from its key, so a sample is known by its pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.degradations import GROUPS
from datamodules.rng import named_rng
from datamodules.shards import ShardIndex, shard_name, write_shard

SIZES = {"00Clean": [3], "01Blur": [5, 4, 6], "09Lowlight_Haze": [7]}
"""Samples of each shard of each group, 25 in all."""

Edit = Callable[[dict[str, Any]], dict[str, Any]]


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def made_image(name: str, height: int = 20, width: int = 24) -> np.ndarray:
    return named_rng("image", name).integers(0, 256, (height, width, 3), dtype=np.uint8)


def made_sample(key: str, group: str) -> dict[str, Any]:
    fields = {"group": group, "atoms": list(GROUPS[group]), "width": 24, "height": 20}
    return {"__key__": key, "lq.png": encode(made_image(key)), "gt.png": encode(255 - made_image(key)), "json": fields}


def make_folder(folder: Path, sizes: dict[str, list[int]] = SIZES, edit: Edit = lambda sample: sample) -> ShardIndex:
    """Write shards with an index; ``edit`` may spoil samples."""
    folder.mkdir(parents=True)
    entries = []
    for group, counts in sizes.items():
        number = 0
        for shard, count in enumerate(counts):
            samples = [edit(made_sample(f"{group}/{number + place:04d}", group)) for place in range(count)]
            entries.append(write_shard(folder / shard_name(group, shard), group, samples).entry)
            number += count
    ShardIndex(folder, tuple(entries)).save()
    return ShardIndex.load(folder)


def keys_of(sizes: dict[str, list[int]] = SIZES) -> list[str]:
    return sorted(f"{group}/{number:04d}" for group, counts in sizes.items() for number in range(sum(counts)))
