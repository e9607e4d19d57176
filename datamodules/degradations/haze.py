"""Haze: particles scatter light out of the path to the camera and air light into it. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.spectrum import power_law_noise
from mimdit.core.srgb import to_linear, to_srgb

PLACE = 0
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 0
"""Key of the random stream; it stays the same when positions change."""

MIN_TRANSMISSION = 0.25
"""Mean transmission at severity 1."""


def depth_map(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth depth, float32 ``[height, width]``, in about 0.25..4.1: far at the top, with random hills."""
    hills = power_law_noise(2 * height, 2 * width, 2.0, rng)[:height, :width]
    gradient = np.linspace(0.5, -0.5, height, dtype=np.float32)[:, None]
    return np.exp(np.float32(rng.uniform(0.2, 1.2)) * gradient + np.float32(rng.uniform(0.1, 0.4)) * np.clip(hills, -2.0, 2.0))


def transmission_map(depth: np.ndarray, mean: float) -> np.ndarray:
    """Return ``exp(-beta * depth)``, with the scattering coefficient beta that gives the ``mean``, in (0, 1]."""
    if mean >= 1.0:
        return np.ones_like(depth)
    beta = -np.log(mean) / float(depth.mean())
    # Newton's method on the convex, falling mean(exp(-beta d)): after the first step beta approaches from below, and five steps suffice.
    for _ in range(5):
        transmission = np.exp(-np.float32(beta) * depth)
        beta += (float(transmission.mean()) - mean) / float((transmission * depth).mean())
    return np.exp(-np.float32(beta) * depth)


def air_light(rng: np.random.Generator) -> np.ndarray:
    """Draw the color of the air light, float32 ``[3]``: bright and nearly white."""
    return np.clip(rng.uniform(0.75, 0.98) + rng.normal(0.0, 0.02, 3), 0.0, 1.0).astype(np.float32)


def scatter(image: np.ndarray, transmission: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Return ``J t + A (1 - t)`` (Koschmieder 1924): ``image [H, W, 3]`` is J, ``transmission [H, W]`` t, ``air [3]`` A."""
    return image * transmission[..., None] + air * (1.0 - transmission[..., None])


def haze(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add haze to a float32 image ``[H, W, 3]`` in 0..1; the mean transmission falls from 1 to `MIN_TRANSMISSION`.

    It acts on sRGB values, as in RESIDE (arXiv 1712.04143) and the methods trained on it.
    """
    height, width = image.shape[:2]
    depth = depth_map(height, width, rng)
    return scatter(image, transmission_map(depth, 1.0 - (1.0 - MIN_TRANSMISSION) * severity), air_light(rng))


def edged_depth(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a depth with edges for an image ``[H, W, 3]``, float32 ``[H, W]`` in about 0.2..3: random planes, or levels of luma."""
    height, width = image.shape[:2]
    from_luma, count, softness = rng.random() < 0.5, int(rng.integers(2, 6)), rng.uniform(0.7, 3.0)
    if from_luma:
        luma = cv2.GaussianBlur(image.mean(axis=2), (0, 0), rng.uniform(3.0, 6.0))
        edges = np.quantile(luma[::4, ::4], np.arange(1, count + 1) / (count + 1.0))
        label = np.searchsorted(edges, luma).astype(np.int64)
        offsets = rng.normal(0.0, 0.45, count + 1).astype(np.float32)
        depth = offsets[label]
    else:
        y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(max(height, width))
        depth = np.zeros((height, width), np.float32)
        for _ in range(count):
            angle, step = rng.uniform(0.0, 2.0 * np.pi), rng.normal(0.0, 0.4)
            y0, x0 = rng.random(2)
            side = (y - np.float32(y0)) * np.float32(np.sin(angle)) + (x - np.float32(x0)) * np.float32(np.cos(angle)) > 0.0
            depth[side] += np.float32(step)
    gradient = np.linspace(0.5, -0.5, height, dtype=np.float32)[:, None]
    depth = cv2.GaussianBlur(depth, (0, 0), softness) + np.float32(rng.uniform(0.0, 1.0)) * gradient
    return np.exp(np.clip(depth - depth.mean(), -1.6, 1.1))


def colored_air(rng: np.random.Generator) -> np.ndarray:
    """Draw the color of colored air light, float32 ``[3]``: gray from 0.55 to 1, bluish (dusk) or yellowish (dust)."""
    cast = rng.choice([-1.0, 0.0, 1.0]) * rng.uniform(0.03, 0.15)
    air = rng.uniform(0.55, 1.0) * np.exp(np.array([1.0, 0.3, -1.0]) * cast)
    return (air / max(1.0, air.max())).astype(np.float32)


def edged(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add haze to an image ``[H, W, 3]`` whose depth jumps at edges; the mean transmission is the same as in `haze`."""
    depth = edged_depth(image, rng)
    return scatter(image, transmission_map(depth, 1.0 - (1.0 - MIN_TRANSMISSION) * severity), air_light(rng))


def linear(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Scatter colored air light into the linear light of an image ``[H, W, 3]``, over a smooth or an edged depth.

    In linear light the same air light covers dark scenes sooner, so the mean transmission falls less than in `haze`, by ``severity **
    1.5``.
    """
    height, width = image.shape[:2]
    depth = edged_depth(image, rng) if rng.random() < 0.5 else depth_map(height, width, rng)
    transmission = transmission_map(depth, 1.0 - (1.0 - MIN_TRANSMISSION) * severity**1.5)
    return to_srgb(scatter(to_linear(image), transmission, to_linear(colored_air(rng))))


def patches(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add an even veil or patches of fog to an image ``[H, W, 3]``, as bright as the image's own bright parts or as colored air."""
    height, width = image.shape[:2]
    even, exponent, patchiness = rng.random() < 0.4, rng.uniform(1.2, 2.0), rng.uniform(0.3, 0.8)
    air, own, percentile = colored_air(rng), rng.random() < 0.5, rng.uniform(0.95, 0.99)
    if own:
        bright = np.quantile(image[::4, ::4], percentile, axis=(0, 1))
        # Halve the saturation: bright objects may be more colorful than air.
        air = np.maximum(0.5 * (bright + bright.mean()), 0.55).astype(np.float32)
    depth = np.ones((height, width), np.float32)
    if not even:
        depth = np.exp(np.float32(patchiness) * np.clip(power_law_noise(height, width, exponent, rng), -2.0, 2.0))
    return scatter(image, transmission_map(depth, 1.0 - (1.0 - MIN_TRANSMISSION) * severity), air)


FORMULAS = {
    "original": Formula(haze),
    "edged": Formula(edged),
    "linear": Formula(linear),
    "patches": Formula(patches),
}
"""Formulas for haze, the original first."""
