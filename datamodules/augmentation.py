"""Aligned random crops, flips and quarter turns, the same for both images of a pair."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from datamodules.decoding import BadSampleError, Pair


@dataclass(frozen=True)
class Window:
    """A square of ``size`` pixels at (top, left) of an upright image, rotated by ``turns`` quarters counterclockwise, then mirrored."""

    top: int
    left: int
    size: int
    turns: int = 0
    mirror: bool = False

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the window's view of ``image [H, W, C]``."""
        window = image[self.top : self.top + self.size, self.left : self.left + self.size]
        window = np.rot90(window, self.turns)
        return window[:, ::-1] if self.mirror else window


def crop_and_flip(pair: Pair, size: int, rng: np.random.Generator, *, flip: bool = True) -> Pair:
    """Cut the same random ``size`` × ``size`` window out of both images; if ``flip``, rotate and mirror both alike (8 ways).

    Raises:
        BadSampleError: The images are smaller than the window.
    """
    window = random_window(pair, size, rng, flip=flip)
    return dataclasses.replace(pair, lq=window.cut(pair.lq), gt=window.cut(pair.gt))


def random_window(pair: Pair, size: int, rng: np.random.Generator, *, flip: bool = True) -> Window:
    """Draw the window that `crop_and_flip` cuts.

    Raises:
        BadSampleError: The images are smaller than the window.
    """
    height, width = pair.lq.shape[:2]
    if min(height, width) < size:
        raise BadSampleError(f"The images of {pair.key} are {width}x{height}, smaller than the crop of {size}. Set a smaller crop.")
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    return Window(top, left, size, turns, mirror) if flip else Window(top, left, size)
