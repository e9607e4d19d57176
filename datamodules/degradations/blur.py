"""Blur by a defocused lens or by a camera that moved during the exposure. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.degradations.light import to_linear, to_srgb

PLACE = 3
"""Place on the way of the light, from the scene (0) to the file (6)."""

STREAM = 3
"""Key of the random stream; it stays when places change."""

LARGEST_SPREAD = 3.5
"""Standard deviation of the kernel along an axis, in pixels, at severity 1."""

_GRID = 5
"""Points per pixel and axis that a kernel is sampled with."""


def _splat(points: np.ndarray) -> np.ndarray:
    """Spread equally weighted points ``[n, 2]`` (pixels, around the origin) over a kernel by bilinear weights."""
    reach = int(np.ceil(np.abs(points).max())) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    corner = np.floor(points).astype(int)
    part = points - corner
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            np.add.at(kernel, (corner[:, 0] + dy + reach, corner[:, 1] + dx + reach), weight)
    return (kernel / len(points)).astype(np.float32)


def defocus_kernel(spread: float) -> np.ndarray:
    """Disk of radius ``2 * spread`` pixels, the image of a point out of focus; its deviation per axis is ``spread`` and it sums to one."""
    radius = 2.0 * spread
    count = max(3, 2 * int(np.ceil(radius * _GRID)) + 1)
    axis = np.linspace(-radius, radius, count)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return _splat(points[np.hypot(points[:, 0], points[:, 1]) <= radius + 1e-9])


def motion_kernel(spread: float, rng: np.random.Generator) -> np.ndarray:
    """Path of a shaking camera, centred, with root-mean-square deviation ``spread`` pixels per axis (both axes pooled); sums to one.

    The direction of travel does a random walk, so paths go from straight lines to hooks and loops, and the speed varies along them.
    """
    steps = 128
    turning = rng.uniform(0.0, 0.15) * np.cumsum(rng.normal(size=steps)) + rng.normal(0.0, 0.01) * np.arange(steps)
    heading = rng.uniform(0.0, 2.0 * np.pi) + turning
    speed = np.exp(0.5 * np.sin(rng.uniform(0.0, 2.0 * np.pi) + np.linspace(0.0, rng.uniform(1.0, 6.0), steps)))
    path = np.cumsum(speed[:, None] * np.stack([np.sin(heading), np.cos(heading)], axis=-1), axis=0)
    path -= path.mean(axis=0)
    return _splat(path * (spread / np.sqrt((path**2).mean())))


def convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve a float32 image ``[H, W, 3]`` with a kernel in linear light; borders are mirrored."""
    # filter2D correlates: the flip makes it a convolution.
    return to_srgb(cv2.filter2D(to_linear(image), -1, np.ascontiguousarray(kernel[::-1, ::-1]), borderType=cv2.BORDER_REFLECT_101))


def blur(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blur a float32 image ``[H, W, 3]`` in 0..1, by defocus or by motion with equal chance.

    The kernel's standard deviation grows linearly with the severity up to `LARGEST_SPREAD` pixels.
    """
    spread = LARGEST_SPREAD * severity
    if spread < 1e-3:
        return image.copy()
    return convolve(image, defocus_kernel(spread) if rng.random() < 0.5 else motion_kernel(spread, rng))


FORMULAS = {
    "original": Formula(blur),
}
