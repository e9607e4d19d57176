"""Noise as cameras leave it in their JPEG files, after their own noise reduction. Not in the paper.

Noise reduction and demosaicing smooth the noise, most of all in the color differences: what is left is fine grain in the luma,
correlated between neighbors, and blotches of color some pixels wide.
"""

import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.degradations.jpeg import encode
from datamodules.degradations.noise import blurred, level
from mimdit.core.srgb import LUMA


def file_noise(shape: tuple[int, int], *, luma_spread: float, color_spread: float, color: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a field of noise, float32 ``[height, width, 3]``, zero mean, with a luma of deviation about one.

    Args:
        shape: Height and width.
        luma_spread: Standard deviation in pixels of the Gaussian that correlates the luma; the correlation of neighbors is about
            ``exp(-1 / (2 * luma_spread)**2)``.
        color_spread: The same of the color differences.
        color: Deviation of the color differences (the mean over red, green and blue of their squares, rooted) relative to the luma's.
        rng: Source of randomness.
    """
    luma = blurred(rng.standard_normal((*shape, 1), dtype=np.float32), luma_spread)
    differences = blurred(rng.standard_normal((*shape, 3), dtype=np.float32), color_spread)
    differences -= (differences @ LUMA)[..., None]
    return luma + np.float32(color) * differences / np.float32(np.sqrt((differences**2).mean()))


def camera_file(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a camera's file to sRGB values ``[H, W, 3]``, often more of it in the shadows, and compress it as a camera does.

    The spreads (0.45 to 1 pixel in luma, 0.8 to 3.5 in color) and the share of color (0.3 to 1.8 of the luma) enclose those of files of
    several cameras at ISO 1600 to 6400.
    """
    deviation = level(severity, rng)
    luma_spread, color_spread = rng.uniform(0.45, 1.0), np.exp(rng.uniform(np.log(0.8), np.log(3.5)))
    color, shadows, quality = np.exp(rng.uniform(np.log(0.3), np.log(1.8))), rng.uniform(-0.3, 1.0), int(rng.integers(86, 100))
    field = file_noise(image.shape[:2], luma_spread=luma_spread, color_spread=color_spread, color=color, rng=rng)
    luma = (image @ LUMA)[..., None]
    strength = 1.0 + np.float32(shadows) * (0.5 - luma)
    noisy = image + np.float32(deviation / np.sqrt(1.0 + color**2)) * strength * field
    return encode(np.clip(noisy, 0.0, 1.0), "JPEG", quality=quality, subsampling=("4:4:4", "4:2:2", "4:2:0")[int(rng.integers(3))])


FORMULAS = {"camera_file": Formula(camera_file)}
"""Formulas for noise in the set ``cameras``, instead of those of other sets."""
