"""sRGB transfer curve: optics and sensors work on linear light, images hold its encoded value."""

import numpy as np


def to_linear(image: np.ndarray) -> np.ndarray:
    """Decode sRGB values in 0..1 to linear light in 0..1, float32 of any shape (IEC 61966-2-1)."""
    curve = np.power((np.maximum(image, 0.04045) + 0.055) / 1.055, np.float32(2.4), dtype=np.float32)
    return np.where(image <= 0.04045, image / 12.92, curve).astype(np.float32, copy=False)


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Encode linear light as sRGB values, clipped to 0..1, float32 of any shape (IEC 61966-2-1)."""
    light = np.clip(light, 0.0, 1.0)
    curve = 1.055 * np.power(np.maximum(light, 0.0031308), np.float32(1.0 / 2.4), dtype=np.float32) - 0.055
    return np.where(light <= 0.0031308, light * 12.92, curve).astype(np.float32, copy=False)
