"""Average of a frame's still pixels over its neighbors, before restoration, so that a still scene's noise flickers less. Not in the paper.

Pixels that move keep their own frame's values, so nothing leaves a ghost. Averaging the degraded frames, not the results, makes each result
depend on a fixed window of sources alone: not on what an interrupted call has written already, nor on how the work was divided.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_BLOCK = 16
"""Side of the blocks in which noise is measured, in pixels."""

_SECOND_DIFFERENCES = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
"""Filter that blocks flat and sloping areas and keeps the variance of white noise (Immerkær 1996)."""

_CLIPPED = 0.02
"""Brightness from both ends of the range within which values may be clipped, so that their noise says nothing of others'."""

_FLOOR = 0.1
"""Quantile of the blocks' noise that is taken for the noise: texture raises that of the other blocks."""

_STRIP = 256
"""Rows that are compared at once."""

_TESTS = ((1, 4.5), (3, 4.0), (7, 4.0))
"""Windows, in pixels, and the largest mean difference in each, in standard deviations of the mean of as much noise."""

_ENERGY = 1.1, 4.0
"""Largest mean square of the differences in the largest window, relative to that of noise: a factor for noise that was measured too low,
and the standard deviations of the mean that are added. Finds texture and thin lines that move."""


def noise_level(frame: np.ndarray) -> float:
    """Return the standard deviation of the white noise in a frame ``[H, W, C]`` of uint8 or uint16, as a share of the range.

    The smallest that a tenth of the blocks has, so that texture is not taken for noise; too small for noise that neighboring pixels share,
    such as that of a compressed video, whose pixels then count as moving.
    """
    values = frame.astype(np.float32) / np.iinfo(frame.dtype).max
    height, width = (side // _BLOCK * _BLOCK for side in values.shape[:2])
    if height == 0 or width == 0:
        return 0.0
    filtered = np.abs(np.atleast_3d(cv2.filter2D(values, -1, _SECOND_DIFFERENCES)))

    def blocks(image: np.ndarray) -> np.ndarray:
        return image[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, -1).mean(axis=(1, 3, 4)).ravel()

    brightness = blocks(values)
    inside = (brightness > _CLIPPED) & (brightness < 1 - _CLIPPED)
    # A normal variable's mean absolute value is sqrt(2 / pi) of its standard deviation.
    return float(np.quantile(blocks(filtered)[inside], _FLOOR) * np.sqrt(np.pi / 2)) if inside.any() else 0.0


def average_still(frame: np.ndarray, neighbors: Sequence[np.ndarray]) -> np.ndarray:
    """Return a frame whose still pixels are means over it and those of its neighbors in which they are still.

    A pixel is still in a neighbor if the two differ by no more than noise would: alone, in the means of windows around it, and in the mean
    square of the largest. A frame without noise comes back unchanged.

    Args:
        frame: ``[H, W, C]`` of uint8 or uint16.
        neighbors: Frames near it; those of another size, type or number of channels are left out.

    Returns:
        The averaged frame, of the same shape and type.
    """
    neighbors = [other for other in neighbors if other.shape == frame.shape and other.dtype == frame.dtype]
    if not neighbors:
        return frame
    noise = noise_level(frame) * np.iinfo(frame.dtype).max
    if noise == 0:
        return frame
    result, halo = np.empty_like(frame), _TESTS[-1][0] // 2
    for top in range(0, frame.shape[0], _STRIP):
        rows = slice(max(0, top - halo), min(top + _STRIP + halo, frame.shape[0]))
        own = frame[rows].astype(np.float32)
        total, count = own.copy(), np.ones(own.shape[:2], np.float32)
        for other in neighbors:
            difference = other[rows].astype(np.float32) - own
            still = _is_still(difference, noise)
            total += difference * still[..., None] + own * still[..., None]
            count += still
        inner = slice(top - rows.start, min(top + _STRIP, frame.shape[0]) - rows.start)
        result[top : top + _STRIP] = np.round(total[inner] / count[inner, :, None])
    return result


def _is_still(difference: np.ndarray, noise: float) -> np.ndarray:
    """Return 1 at the positions ``[H, W]`` where differences ``[H, W, C]`` of two frames are no more than their noise, else 0; fp32."""
    spread = np.sqrt(2) * noise
    still = np.ones(difference.shape[:2], bool)
    for window, limit in _TESTS:
        still &= np.abs(_mean(difference, window)).max(axis=2) <= limit * spread / window
    energy = _mean(np.square(difference).mean(axis=2, keepdims=True), _TESTS[-1][0])[..., 0]
    factor, limit = _ENERGY
    samples = _TESTS[-1][0] ** 2 * difference.shape[2]  # the mean of n squares of unit normals has the variance 2 / n
    return (still & (energy <= (factor + limit * np.sqrt(2 / samples)) * spread**2)).astype(np.float32)


def _mean(image: np.ndarray, window: int) -> np.ndarray:
    return np.atleast_3d(cv2.blur(image, (window, window), borderType=cv2.BORDER_REFLECT_101)) if window > 1 else image
