"""Haze: light is scattered out of the way to the camera, and air light is scattered into it. Not in the paper."""

import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.spectrum import power_law_noise

PLACE = 0
"""Place on the way of the light, from the scene (0) to the file (6)."""

STREAM = 0
"""Key of the random stream; it stays when places change."""

LEAST_TRANSMISSION = 0.25
"""Mean transmission at severity 1."""


def depth_map(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth map like the depth of a scene, float32 ``[height, width]``, in about 0.2..2: far at the top, with hills at random."""
    hills = power_law_noise(2 * height, 2 * width, 2.0, rng)[:height, :width]
    gradient = np.linspace(0.5, -0.5, height, dtype=np.float32)[:, None]
    return np.exp(np.float32(rng.uniform(0.2, 1.2)) * gradient + np.float32(rng.uniform(0.1, 0.4)) * np.clip(hills, -2.0, 2.0))


def transmission_map(depth: np.ndarray, mean: float) -> np.ndarray:
    """``exp(-beta * depth)`` with the scattering coefficient beta that gives it the wanted mean (in 0..1, 0 excluded)."""
    if mean >= 1.0:
        return np.ones_like(depth)
    beta = -np.log(mean) / float(depth.mean())
    # Newton's method on the convex, falling mean(exp(-beta d)): after the first step beta approaches from below, and five steps suffice.
    for _ in range(5):
        transmission = np.exp(-np.float32(beta) * depth)
        beta += (float(transmission.mean()) - mean) / float((transmission * depth).mean())
    return np.exp(-np.float32(beta) * depth)


def air_light(rng: np.random.Generator) -> np.ndarray:
    """The colour of the air, float32 ``[3]``: bright and nearly white."""
    return np.clip(rng.uniform(0.75, 0.98) + rng.normal(0.0, 0.02, 3), 0.0, 1.0).astype(np.float32)


def scatter(image: np.ndarray, transmission: np.ndarray, air: np.ndarray) -> np.ndarray:
    """``J t + A (1 - t)`` (Koschmieder 1924), of the sRGB values as in RESIDE (arXiv 1712.04143) and the methods trained on it."""
    return image * transmission[..., None] + air * (1.0 - transmission[..., None])


def haze(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Put haze over a float32 image ``[H, W, 3]`` in 0..1; the mean transmission falls from 1 to `LEAST_TRANSMISSION`."""
    depth = depth_map(*image.shape[:2], rng)
    return scatter(image, transmission_map(depth, 1.0 - (1.0 - LEAST_TRANSMISSION) * severity), air_light(rng))


FORMULAS = {
    "original": Formula(haze),
}
