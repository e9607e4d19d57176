"""Blur by a defocused lens or by camera motion during the exposure. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula
from mimdit.core.srgb import to_linear, to_srgb

PLACE = 3
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 3
"""Key of the random stream; it stays the same when positions change."""

LARGEST_SPREAD = 3.5
"""Standard deviation of the kernel along an axis, in pixels, at severity 1."""

_GRID = 5
"""Samples of a kernel per pixel and axis."""


def _splat(points: np.ndarray) -> np.ndarray:
    """Distribute equally weighted points ``[n, 2]`` (pixels, around the origin) over a kernel by bilinear weights."""
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
    """Return a disk of radius ``2 * spread`` pixels, the image of a defocused point.

    Its standard deviation per axis is ``spread`` pixels; it sums to one.
    """
    radius = 2.0 * spread
    count = max(3, 2 * int(np.ceil(radius * _GRID)) + 1)
    axis = np.linspace(-radius, radius, count)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return _splat(points[np.hypot(points[:, 0], points[:, 1]) <= radius + 1e-9])


def motion_kernel(spread: float, rng: np.random.Generator) -> np.ndarray:
    """Return the centered path of a shaking camera; it sums to one.

    The root mean square deviation is ``spread`` pixels per axis, both axes pooled. The direction of travel does a random walk, so paths
    range from straight lines to hooks and loops, and the speed varies along them.
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
    # filter2D correlates; flipping the kernel makes it a convolution.
    return to_srgb(cv2.filter2D(to_linear(image), -1, np.ascontiguousarray(kernel[::-1, ::-1]), borderType=cv2.BORDER_REFLECT_101))


def blur(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blur a float32 image ``[H, W, 3]`` in 0..1, by defocus or by motion with equal probability.

    The kernel's standard deviation grows linearly with the severity up to `LARGEST_SPREAD` pixels.
    """
    spread = LARGEST_SPREAD * severity
    if spread < 1e-3:
        return image.copy()
    return convolve(image, defocus_kernel(spread) if rng.random() < 0.5 else motion_kernel(spread, rng))


def gaussian_kernel(spread: float, ratio: float, angle: float) -> np.ndarray:
    """Return a Gaussian that sums to one.

    Its two standard deviations have the root mean square ``spread`` pixels and the given ratio; the long axis is ``angle`` radians from the
    horizontal.
    """
    long = spread * np.sqrt(2.0 / (1.0 + ratio**2))
    reach = int(np.ceil(3.0 * long)) + 1
    # Average over the area of each pixel on a finer grid, so that a narrow kernel does not fall between two samples.
    axis = (np.arange((2 * reach + 1) * _GRID) + 0.5) / _GRID - reach - 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    fine = np.exp(-0.5 * ((along / long) ** 2 + (across / (ratio * long)) ** 2))
    kernel = fine.reshape(2 * reach + 1, _GRID, 2 * reach + 1, _GRID).sum(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def line_kernel(spread: float, angle: float) -> np.ndarray:
    """Return the blur of straight, even motion at ``angle`` radians from the horizontal; deviation as in `motion_kernel`."""
    length = spread * np.sqrt(24.0)
    along = np.linspace(-0.5, 0.5, 8 * int(np.ceil(length)) + 1)
    return _splat(along[:, None] * length * np.array([np.sin(angle), np.cos(angle)]))


def aperture_kernel(spread: float, blades: int, turn: float, hole: float, edge: float) -> np.ndarray:
    """Return the image of a defocused point through an aperture with ``blades`` straight sides.

    Its standard deviation is ``spread`` pixels per axis; ``turn`` rotates it, in radians. ``hole`` is the fraction of the radius that a
    mirror lens covers; ``edge``, 0..1, is how much brighter the rim is than the middle (spherical aberration).
    """
    axis = np.linspace(-1.0, 1.0, 61)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    sector = 2.0 * np.pi / blades
    angle = np.mod(np.arctan2(points[:, 0], points[:, 1]) + turn, sector) - sector / 2.0
    radius = np.hypot(points[:, 0], points[:, 1]) * np.cos(angle) / np.cos(sector / 2.0)
    points, radius = points[(radius <= 1.0) & (radius >= hole)], radius[(radius <= 1.0) & (radius >= hole)]
    # Points on the rim are counted again, which gives the rim its greater weight.
    points = np.concatenate([points, *[points[radius > 1.0 - 0.15 * part] for part in (edge, edge / 2.0)]])
    points = points - points.mean(axis=0)
    return _splat(points * (spread / np.sqrt((points**2).mean())))


def _convolve_somewhere(image: np.ndarray, kernel: np.ndarray, in_light: bool) -> np.ndarray:
    if in_light:
        return convolve(image, kernel)
    return np.clip(cv2.filter2D(image, -1, np.ascontiguousarray(kernel[::-1, ::-1]), borderType=cv2.BORDER_REFLECT_101), 0.0, 1.0)


def gaussian(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blur an image ``[H, W, 3]`` by an isotropic or a stretched Gaussian, in linear light or in sRGB; spread as in `blur`."""
    ratio, angle = rng.uniform(0.25, 1.0) if rng.random() < 0.5 else 1.0, rng.uniform(0.0, np.pi)
    in_light, spread = rng.random() < 0.5, LARGEST_SPREAD * severity
    return _convolve_somewhere(image, gaussian_kernel(spread, ratio, angle), in_light) if spread >= 1e-3 else image.copy()


def line(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blur an image ``[H, W, 3]`` along a straight line, in linear light or in sRGB; spread as in `blur`."""
    angle, in_light, spread = rng.uniform(0.0, np.pi), rng.random() < 0.7, LARGEST_SPREAD * severity
    return _convolve_somewhere(image, line_kernel(spread, angle), in_light) if spread >= 1e-3 else image.copy()


def aperture(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Blur an image ``[H, W, 3]`` in linear light by a lens with 5 to 9 blades, a bright rim or a covered middle; spread as in `blur`."""
    blades, turn, edge = int(rng.integers(5, 10)), rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, 1.0) * (rng.random() < 0.6)
    hole, spread = rng.uniform(0.2, 0.5) * (rng.random() < 0.25), LARGEST_SPREAD * severity
    return convolve(image, aperture_kernel(spread, blades, turn, hole, edge)) if spread >= 1e-3 else image.copy()


_DOWN = (cv2.INTER_AREA, cv2.INTER_LINEAR)
_UP = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def resized(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Downscale an image ``[H, W, 3]`` by a factor of up to 7 and upscale it again, for the softness of an enlarged picture."""
    height, width = image.shape[:2]
    factor = 1.0 + (2.0 * LARGEST_SPREAD - 1.0) * severity * rng.uniform(0.8, 1.0)
    down, up = _DOWN[int(rng.integers(len(_DOWN)))], _UP[int(rng.integers(len(_UP)))]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    if small == (width, height):
        return image.copy()
    if down == cv2.INTER_LINEAR:
        # Bilinear sampling reads two pixels per axis only: without this filter the downscaled image would alias.
        image = cv2.GaussianBlur(image, (0, 0), 0.3 * factor)
    return np.clip(cv2.resize(cv2.resize(image, small, interpolation=down), (width, height), interpolation=up), 0.0, 1.0)


FORMULAS = {
    "original": Formula(blur, 2.0),
    "gaussian": Formula(gaussian),
    "line": Formula(line),
    "aperture": Formula(aperture),
    "resized": Formula(resized, 0.5),
}
"""Formulas for blur, the original first."""
