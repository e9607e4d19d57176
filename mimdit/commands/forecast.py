"""Estimate of the time that restoring takes, from a trial."""

import time
from typing import Any

import numpy as np

from mimdit.restorer.pixels import restore_pixels
from mimdit.restorer.restorer import Restorer

_LEAST, _MOST = 64, 256


def seconds_per_megapixel(restorer: Restorer, megapixels: float, **settings: Any) -> float:
    """Return the seconds per megapixel of a trial on a square of noise, a twentieth of ``megapixels`` large, 64 to 256 pixels a side.

    A smaller, untimed square precedes it: first calls are slower. ``settings`` are passed to `Restorer.restore`.
    """
    side = int(min(_MOST, max(_LEAST, (megapixels * 1e6 / 20) ** 0.5)))
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    restore_pixels(restorer, pixels[:_LEAST, :_LEAST], **settings)
    began = time.perf_counter()
    restore_pixels(restorer, pixels, **settings)
    return (time.perf_counter() - began) / (side**2 / 1e6)


def in_words(seconds: float) -> str:
    """Return a duration, rounded, in s, min or h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
