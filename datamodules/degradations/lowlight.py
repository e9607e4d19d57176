"""Low light: too little exposure, a flatter curve, and the noise that the missing photons leave. Not in the paper."""

import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.degradations.light import to_linear, to_srgb
from datamodules.degradations.noise import noise_levels, sensor_noise

PLACE = 4
"""Place on the way of the light, from the scene (0) to the file (6)."""

STREAM = 4
"""Key of the random stream; it stays when places change."""

STOPS = 3.0
"""Stops of exposure lost at severity 1: an eighth of the light is left."""

_NOISE = 0.08
"""Severity of the added noise, as a share of this severity: about 4/255 at most."""


def darken(image: np.ndarray, severity: float, gamma: float, gains: np.ndarray) -> np.ndarray:
    """Light of an underexposed image ``[H, W, 3]``: ``2 ** (-STOPS * severity)`` of it, to the power ``gamma``, times ``gains [3]``."""
    light = to_linear(image) * np.float32(2.0 ** (-STOPS * severity))
    return np.power(light, np.float32(gamma), dtype=np.float32) * gains.astype(np.float32)


def lowlight(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Darken a float32 image ``[H, W, 3]`` in 0..1, in linear light, with moderate noise after.

    At severity 1 three stops are lost, the gamma is up to 1.25 and the white balance is off by up to some 5 %.
    """
    gamma = 1.0 + rng.uniform(0.0, 0.25) * severity
    gains = np.exp(rng.normal(0.0, 0.03, 3) * severity)
    light = darken(image, severity, gamma, gains)
    if severity <= 0.0:
        return to_srgb(light)
    return to_srgb(light + sensor_noise(light, *noise_levels(_NOISE * severity), rng))


FORMULAS = {
    "original": Formula(lowlight),
}
