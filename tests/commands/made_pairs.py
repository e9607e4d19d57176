"""Folders of two runs' results for a blind comparison, with pixels that tell the runs apart."""

from pathlib import Path

import numpy as np
from PIL import Image

LEVELS = {"zebra": 60, "quagga": 180, "input": 20}
"""Mean level of each folder's images. No other text of a page holds these names of runs."""


def write_images(root: Path, names: list[str], folders: tuple[str, ...] = tuple(LEVELS), side: int = 24) -> list[Path]:
    """Write noise around each folder's level under its name; return the folders."""
    for folder in folders:
        for number, name in enumerate(names):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(-9, 10, (side, side + 8, 3))
            Image.fromarray((LEVELS[folder] + noise).astype(np.uint8)).save(path)
    return [root / folder for folder in folders]


def run_of(pixels: np.ndarray) -> str:
    """Return the folder that an image comes from."""
    return min(LEVELS, key=lambda name: abs(LEVELS[name] - float(np.mean(pixels))))
