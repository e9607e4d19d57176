"""Random fields with a natural (power-law) spectrum: the texture of scenes and the depth of haze."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def _amplitude(height: int, width: int, exponent: float) -> np.ndarray:
    """Return amplitudes ``f ** -exponent`` of the half spectrum, scaled to unit variance, without the constant term."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    amplitude = frequency**-exponent
    # A column of the half spectrum represents two of the full one; of the first (and, at even width, the last) half the power is kept,
    # because the inverse transform drops what is not conjugate symmetric.
    weight = np.full(amplitude.shape[1], 2.0)
    weight[0] = 0.5
    if width % 2 == 0:
        weight[-1] = 0.5
    power = (weight * amplitude**2).sum()
    return (amplitude * height * width / np.sqrt(2.0 * power)).astype(np.float32)


def power_law_noise(height: int, width: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a Gaussian field, float32 ``[height, width]``, whose amplitude spectrum falls as ``frequency ** -exponent``.

    The field is periodic, its mean is zero and its expected variance is one. Exponent 0 is white noise; about 1 is the spectrum of natural
    images (Field 1987). Exponents are rounded to tenths, so that the spectra can be cached.
    """
    amplitude = _amplitude(height, width, round(exponent, 1))
    spectrum = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    return np.fft.irfft2(amplitude * spectrum, s=(height, width)).astype(np.float32, copy=False)
