"""Sensor noise: photons arrive at random and the read-out adds its own. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.degradations.light import to_linear, to_srgb

PLACE = 5
"""Place on the way of the light, from the scene (0) to the file (6)."""

STREAM = 5
"""Key of the random stream; it stays when places change."""

_MILDEST, _SEVEREST = 1.0 / 255.0, 50.0 / 255.0
_SRGB_SLOPE = 2.2
"""Shot noise of variance ``shot * x`` in linear light is nearly even in sRGB, with standard deviation about ``sqrt(shot) / 2.2``."""


def noise_levels(severity: float) -> tuple[float, float]:
    """``(shot, read)``: the noise variance in linear light x is ``shot * x + read``.

    Chosen so that the standard deviation in sRGB grows linearly from 1/255 to about 50/255 with the severity; above some 20/255 the bend
    of the curve makes dark pixels noisier than that, until they clip.
    """
    deviation = _MILDEST + (_SEVEREST - _MILDEST) * severity
    return (_SRGB_SLOPE * deviation) ** 2, (0.05 * deviation) ** 2


def sensor_noise(light: np.ndarray, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Noise for linear light ``[H, W, 3]``: zero mean and variance ``shot * light + read``, float32.

    The Poisson part is drawn as the Gaussian of equal variance. Half of the draws have colour channels that are mildly correlated, half are
    mildly correlated between neighbouring pixels, as after demosaicing; neither changes the variance.
    """
    field = rng.standard_normal(light.shape, dtype=np.float32)
    if rng.random() < 0.5:
        shared = rng.uniform(0.0, 0.4)
        common = rng.standard_normal(light.shape[:2], dtype=np.float32)
        field = np.float32(np.sqrt(1.0 - shared)) * field + np.float32(np.sqrt(shared)) * common[..., None]
    if rng.random() < 0.5:
        side = rng.uniform(0.0, 0.3)
        taps = np.array([side, 1.0, side]) / np.sqrt(1.0 + 2.0 * side**2)
        field = cv2.sepFilter2D(field, -1, taps, taps, borderType=cv2.BORDER_REFLECT)
    return field * np.sqrt(np.float32(shot) * light + np.float32(read))


def noise(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add Poisson-Gaussian noise to a float32 image ``[H, W, 3]`` in 0..1, in linear light.

    See `noise_levels` for its strength (Foi et al. 2008 for the model; the levels are ours).
    """
    light = to_linear(image)
    return to_srgb(light + sensor_noise(light, *noise_levels(severity), rng))


FORMULAS = {
    "original": Formula(noise),
}
