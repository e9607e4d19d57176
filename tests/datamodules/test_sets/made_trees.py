"""Small look-alikes of released benchmarks: every image is noise drawn from its name, so that it is known by its pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.rng import named_rng


def pixels(name: str, height: int = 20, width: int = 24) -> np.ndarray:
    return named_rng("benchmark", name).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make(root: Path, *names: str, height: int = 20, width: int = 24) -> Path:
    """Write images, all losslessly whatever their suffix says; their content is that of their path below the root."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name, height, width)).save(path, format="PNG")
    return root


def pairs_of(contents) -> list[tuple[str, str]]:
    """Group and key of every entry."""
    return [(entry.group, entry.key) for entry in contents.entries]


def check_pixels(entry, lq: str, gt: str | None) -> None:
    """Check that an entry loads the images made for these names."""
    degraded, truth = entry.load()
    assert np.array_equal(degraded, pixels(lq))
    assert (truth is None) if gt is None else np.array_equal(truth, pixels(gt))
