"""Aligned random crops, flips and quarter turns, the same for both images of a pair."""

import dataclasses

import numpy as np

from datamodules.decoding import BadSampleError, Pair


def crop_and_flip(pair: Pair, size: int, rng: np.random.Generator, *, flip: bool = True) -> Pair:
    """Cut the same random ``size`` × ``size`` window out of both images and, with ``flip``, turn and mirror both alike (8 ways).

    Raises:
        BadSampleError: The images are smaller than the window.
    """
    height, width = pair.lq.shape[:2]
    if min(height, width) < size:
        raise BadSampleError(f"The images of {pair.key} are {width}x{height}, smaller than the crop of {size}. Set a smaller crop.")
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def cut(image: np.ndarray) -> np.ndarray:
        window = image[top : top + size, left : left + size]
        if flip:
            window = np.rot90(window, turns)
            window = window[:, ::-1] if mirror else window
        return window

    return dataclasses.replace(pair, lq=cut(pair.lq), gt=cut(pair.gt))
