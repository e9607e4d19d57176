"""sRGB transfer curve: optics and sensors work on linear light, images hold its encoded value."""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the luma of sRGB values (ITU-R BT.601)."""


def to_linear(image: np.ndarray, *, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Decode sRGB values in 0..1 to linear light in 0..1, of any shape (IEC 61966-2-1).

    ``dtype`` is the type of the computation and of the result; float32 is a few levels of 16 bits off.
    """
    curve = np.power((np.maximum(image, 0.04045) + 0.055) / 1.055, dtype(2.4), dtype=dtype)
    return np.where(image <= 0.04045, image / 12.92, curve).astype(dtype, copy=False)


def to_srgb(light: np.ndarray, *, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Encode linear light as sRGB values, clipped to 0..1, of any shape; the inverse of `to_linear`."""
    light = np.clip(light, 0.0, 1.0)
    curve = 1.055 * np.power(np.maximum(light, 0.0031308), dtype(1.0 / 2.4), dtype=dtype) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, curve).astype(dtype, copy=False)
