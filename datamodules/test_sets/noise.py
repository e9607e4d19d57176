"""Clean images that are made noisy when they are read, as PromptIR's and AirNet's denoising tests do."""

from functools import partial
from pathlib import Path

import numpy as np

from datamodules.rng import named_rng
from datamodules.test_sets.base import Contents, Entry, Images
from datamodules.test_sets.files import images_by_stem, read_image

SIGMAS = (15, 25, 50)
"""Standard deviations on 0..255 that papers report."""


def noisy_images(name: str, folder: Path, sigmas: tuple[int, ...] = SIGMAS, seed: int = 0) -> Contents:
    """Every image of a folder once per sigma, in groups ``<name> sigma15`` and so on.

    Gaussian noise on 0..255, clipped and cut to whole numbers, not rounded, as in PromptIR. Its draws come one after the other from one
    generator; ours belong to the image, so that they depend neither on the number of processes nor on which images are taken. (ours)
    """
    contents = Contents()
    for stem, paths in images_by_stem(folder).items():
        if len(paths) > 1:
            contents.unpaired.append(f"{', '.join(map(str, paths))}: they differ in their suffixes alone")
            continue
        for sigma in sigmas:
            group = f"{name} sigma{sigma}"
            contents.entries.append(Entry(group, stem, ("noise",), partial(_load_noisy, paths[0], sigma, seed)))
    return contents


def _load_noisy(path: Path, sigma: int, seed: int) -> Images:
    clean = read_image(path)
    noise = named_rng(seed, "noise", path.stem, sigma).standard_normal(clean.shape)
    return np.clip(clean + noise * sigma, 0, 255).astype(np.uint8), clean
