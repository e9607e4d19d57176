"""Low light: underexposure, a flatter curve, and the noise that the missing photons leave. Not in the paper."""

import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.degradations.noise import camera_noise, noise_levels, sensor_noise
from datamodules.spectrum import power_law_noise
from mimdit.core.srgb import to_linear, to_srgb

PLACE = 4
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 4
"""Key of the random stream; it stays the same when positions change."""

STOPS = 3.0
"""Stops of exposure lost at severity 1: an eighth of the light remains."""

_NOISE = 0.08
"""Severity of the added noise, as a fraction of this severity: about 4/255 at most."""


def darken(image: np.ndarray, severity: float, gamma: float, gains: np.ndarray) -> np.ndarray:
    """Return the linear light of an underexposed image ``[H, W, 3]``.

    It is ``2 ** (-STOPS * severity)`` of the image's light, to the power ``gamma``, times ``gains [3]``.
    """
    light = to_linear(image) * np.float32(2.0 ** (-STOPS * severity))
    return np.power(light, np.float32(gamma), dtype=np.float32) * gains.astype(np.float32)


def lowlight(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Darken a float32 image ``[H, W, 3]`` in 0..1 in linear light, then add moderate noise.

    At severity 1 three stops are lost, the gamma is up to 1.25 and the white balance is off by up to about 5 %.
    """
    gamma = 1.0 + rng.uniform(0.0, 0.25) * severity
    gains = np.exp(rng.normal(0.0, 0.03, 3) * severity)
    light = darken(image, severity, gamma, gains)
    if severity <= 0.0:
        return to_srgb(light)
    return to_srgb(light + sensor_noise(light, *noise_levels(_NOISE * severity), rng))


def exposure(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Underexpose an image ``[H, W, 3]`` by up to `STOPS`, varied by a fifth, with a small tint and with camera noise or none."""
    stops, tint, strength = STOPS * rng.uniform(0.8, 1.2), rng.normal(0.0, 0.05, 3), rng.uniform(0.0, 2.0) * (rng.random() < 0.75)
    light = to_linear(image) * np.exp(tint * severity - np.log(2.0) * stops * severity).astype(np.float32)
    if severity <= 0.0 or strength == 0.0:
        return to_srgb(light)
    return to_srgb(light + camera_noise(light, *noise_levels(_NOISE * strength * severity), rng))


def curve(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Bend (power up to 3.5), scale and flatten the sRGB values of an image ``[H, W, 3]``, each at random; half of the images are noisy."""
    bend, most, flatness = rng.uniform(0.0, 1.0), rng.uniform(0.8, 1.1), rng.uniform(0.0, 0.3) * (rng.random() < 0.4)
    black, tint, noisy = rng.uniform(0.02, 0.1), rng.normal(0.0, 0.02, 3), rng.random() < 0.5
    reach = most * severity
    power, scale = 1.0 + 2.2 * bend * reach, np.exp(-1.15 * (1.0 - bend) * reach + tint * severity).astype(np.float32)
    dark = np.power(np.maximum(image, 0.0), np.float32(power), dtype=np.float32) * scale
    dark += np.float32(flatness * severity) * (np.float32(black) - dark)
    if noisy:
        dark += np.float32(_NOISE * severity * 50.0 / 255.0) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(dark, 0.0, 1.0)


def shadow_map(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw where a scene lacks light, float32 ``[height, width]``, mean one: outside a vignette, away from lamps, or smooth patches."""
    kind = rng.random()
    if kind < 0.7:
        y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(max(height, width))
        lit = np.zeros((height, width), np.float32)
        for _ in range(1 if kind < 0.35 else int(rng.integers(1, 4))):
            spread, place = (rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.7, 2)) if kind < 0.35 else (rng.uniform(0.15, 0.4), rng.random(2))
            y0, x0 = (float(part) * side / max(height, width) for part, side in zip(place, (height, width), strict=True))
            lit = np.maximum(lit, np.exp(-((y - np.float32(y0)) ** 2 + (x - np.float32(x0)) ** 2) / np.float32(2.0 * spread**2)))
        shadow = 1.0 - np.float32(rng.uniform(0.5, 0.9)) * lit
    else:
        shadow = np.exp(np.float32(rng.uniform(0.2, 0.4)) * np.clip(power_law_noise(height, width, 2.0, rng), -2.0, 2.0))
    return shadow / shadow.mean()


def lit(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Darken an image ``[H, W, 3]`` unevenly: `STOPS` on average over a `shadow_map`; the remaining light is warm or cold."""
    stops, tint = STOPS * rng.uniform(0.85, 1.1), np.array([1.0, 0.0, -1.0]) * rng.normal(0.0, 0.08)
    strength = rng.uniform(0.0, 2.0) * (rng.random() < 0.5)
    height, width = image.shape[:2]
    shadow = shadow_map(height, width, rng)
    light = to_linear(image) * np.exp2(np.float32(-stops * severity) * shadow)[..., None] * np.exp(tint * severity).astype(np.float32)
    if severity <= 0.0 or strength == 0.0:
        return to_srgb(light)
    return to_srgb(light + sensor_noise(light, *noise_levels(_NOISE * strength * severity), rng))


FORMULAS = {
    "original": Formula(lowlight),
    "exposure": Formula(exposure),
    "curve": Formula(curve),
    "lit": Formula(lit),
}
"""Formulas for low light, the original first."""
