"""Noise: photon and read-out noise, drawn on the color mosaic of a camera or on the image. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula
from datamodules.degradations.jpeg import compress
from datamodules.spectrum import power_law_noise
from mimdit.core.srgb import LUMA, to_linear, to_srgb

PLACE = 5
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 5
"""Key of the random stream; it stays the same when positions change."""

_MILDEST, _SEVEREST = 1.0 / 255.0, 50.0 / 255.0

_SRGB_SLOPE = 2.2
"""Shot noise of variance ``shot * x`` in linear light is nearly even in sRGB, with standard deviation about ``sqrt(shot) / 2.2``."""
_CROSS = np.array([[0.0, 0.25, 0.0], [0.25, 1.0, 0.25], [0.0, 0.25, 0.0]], np.float32)
_SQUARE = np.array([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]], np.float32)


def bayer_masks(height: int, width: int, phase: tuple[int, int]) -> np.ndarray:
    """Return the sites of red, green and blue, float32 ``[height, width, 3]`` of zeros and ones, for a pattern shifted by ``phase``."""
    rows, columns = (np.arange(height) + phase[0])[:, None] % 2, (np.arange(width) + phase[1])[None] % 2
    return np.stack([(rows == 0) & (columns == 0), (rows != columns), (rows == 1) & (columns == 1)], axis=-1).astype(np.float32)


def demosaic(sites: np.ndarray) -> np.ndarray:
    """Interpolate channels ``[H, W, 3]``, zero off their sites of a Bayer mosaic, bilinearly."""
    red, green, blue = cv2.split(sites)
    # Mirroring without the border row keeps the pattern of rows and columns.
    return cv2.merge(
        [
            cv2.filter2D(red, -1, _SQUARE, borderType=cv2.BORDER_REFLECT_101),
            cv2.filter2D(green, -1, _CROSS, borderType=cv2.BORDER_REFLECT_101),
            cv2.filter2D(blue, -1, _SQUARE, borderType=cv2.BORDER_REFLECT_101),
        ]
    )


def camera_noise(light: np.ndarray, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise for linear light ``[H, W, 3]``, float32: zero mean, variance about ``shot * light + read`` averaged over gray.

    The light is divided by white-balance gains and gets one noisy sample per pixel on a Bayer mosaic of random phase; the noise is then
    interpolated and multiplied by the gains like the samples. So red and blue are noisier than green, and neighbors are correlated. As the
    interpolation is linear, the noise can be added to the original light, which has not lost its detail to the mosaic.
    """
    gains = np.array([rng.uniform(1.2, 2.4), 1.0, rng.uniform(1.2, 2.2)], np.float32)
    height, width = light.shape[:2]
    masks = bayer_masks(height, width, (int(rng.integers(2)), int(rng.integers(2))))
    # Bilinear interpolation leaves 9/16 of the variance in red and blue and 5/8 in green, averaged over the sites.
    kept = np.array([9.0 / 16.0, 5.0 / 8.0, 9.0 / 16.0])
    shot = shot / float((kept * gains).mean())
    read = read / float((kept * gains**2).mean())
    field = rng.standard_normal(light.shape[:2], dtype=np.float32)[..., None] * masks
    return demosaic(field * np.sqrt(np.float32(shot) * np.maximum(light, 0.0) / gains + np.float32(read))) * gains


def lost_detail(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the change to an image ``[H, W, 3]`` by a mosaic and its interpolation: color fringes and softness at edges."""
    height, width = image.shape[:2]
    masks = bayer_masks(height, width, (int(rng.integers(2)), int(rng.integers(2))))
    return demosaic(image * masks) - image


def noise_levels(severity: float) -> tuple[float, float]:
    """Return ``(shot, read)``: the noise variance in linear light x is ``shot * x + read``.

    The standard deviation in sRGB grows linearly from 1/255 to about 50/255 with the severity; above about 20/255 the bend of the curve
    makes dark pixels noisier, until they clip.
    """
    deviation = _MILDEST + (_SEVEREST - _MILDEST) * severity
    return (_SRGB_SLOPE * deviation) ** 2, (0.05 * deviation) ** 2


def sensor_noise(light: np.ndarray, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise for linear light ``[H, W, 3]``, float32: zero mean, variance ``shot * light + read``.

    The Poisson part is drawn as the Gaussian of equal variance. Half of the draws have mildly correlated color channels, and half are
    mildly correlated between neighboring pixels, as after demosaicing; neither changes the variance.
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

    See `noise_levels` for its strength. The model is from Foi et al. 2008; the levels are not.
    """
    light = to_linear(image)
    return to_srgb(light + sensor_noise(light, *noise_levels(severity), rng))


def level(severity: float, rng: np.random.Generator) -> float:
    """Draw a standard deviation in sRGB, 1/255 to 50/255: linear in the severity, or a curve that dwells on weak noise."""
    return _MILDEST + (_SEVEREST - _MILDEST) * severity ** rng.uniform(1.0, 1.5)


def _tone_curve(contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Return abscissas and values in 0..1 of an S-shaped curve; contrast 0 is the identity."""
    x = np.linspace(0.0, 1.0, 513)
    return x, (1.0 - contrast) * x + contrast * x * x * (3.0 - 2.0 * x)


def smooth_chroma(image: np.ndarray, deviation: float, share: float) -> np.ndarray:
    """Blur the color differences of an image ``[H, W, 3]`` by ``deviation`` pixels and blend them in by ``share``; luma stays."""
    luma = (image @ LUMA)[..., None]
    chroma = image - luma
    return luma + chroma + np.float32(share) * (cv2.GaussianBlur(chroma, (0, 0), deviation) - chroma)


def camera(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a camera to an image ``[H, W, 3]``: on the color mosaic, under a tone curve, often smoothed and compressed.

    The tone curve is inverted before and applied after the noise, so the tones stay. Color smoothing, lost detail and JPEG (quality 75 to
    98) also grow with the severity.
    """
    deviation = level(severity, rng)
    contrast = rng.uniform(0.0, 0.5) if rng.random() < 0.5 else 0.0
    x, curve = _tone_curve(contrast)
    soft, smoothing, detail = rng.uniform(0.7, 2.0), rng.uniform(0.3, 1.0), rng.uniform(0.0, 0.5)
    with_smoothing, with_detail, with_file, loss = rng.random() < 0.4, rng.random() < 0.3, rng.random() < 0.5, rng.random()
    flat = np.interp(image, curve, x).astype(np.float32) if contrast else image
    light = to_linear(flat)
    read_share = rng.uniform(0.02, 0.12)
    light = light + camera_noise(light, (_SRGB_SLOPE * deviation) ** 2, (read_share * deviation) ** 2, rng)
    noisy = to_srgb(light)
    noisy = np.interp(noisy, x, curve).astype(np.float32) if contrast else noisy
    if with_detail:
        noisy = noisy + np.float32(detail * severity) * lost_detail(image, rng)
    if with_smoothing:
        noisy = smooth_chroma(noisy, soft, smoothing * min(1.0, 3.0 * severity))
    noisy = np.clip(noisy, 0.0, 1.0)
    return compress(noisy, round(98.0 - 23.0 * loss * min(1.0, 2.0 * severity))) if with_file else noisy


def white(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise to sRGB values ``[H, W, 3]``: equal in all channels, of a different strength in each, or gray."""
    deviation, kind = level(severity, rng), rng.random()
    if kind < 0.3:
        field = rng.standard_normal((*image.shape[:2], 1), dtype=np.float32)
    else:
        field = rng.standard_normal(image.shape, dtype=np.float32)
    if kind > 0.65:
        factors = np.exp(rng.normal(0.0, 0.4, 3))
        field *= (factors / np.sqrt((factors**2).mean())).astype(np.float32)
    return np.clip(image + np.float32(deviation) * field, 0.0, 1.0)


def blurred(field: np.ndarray, spread: float) -> np.ndarray:
    """Correlate white noise ``[H, W, C]`` of unit variance over ``spread`` pixels; the mean is zero and the deviation about one."""
    field = cv2.GaussianBlur(field, (0, 0), spread).reshape(field.shape)
    taps = cv2.getGaussianKernel(2 * int(np.ceil(4.0 * spread)) + 1, spread)
    return (field - field.mean(axis=(0, 1))) / np.float32((taps**2).sum())


def grain(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise correlated between neighbors, like film grain, to sRGB values ``[H, W, 3]``: gray or colored, or strongest in mid-tones."""
    deviation, spread, coloring = level(severity, rng), rng.uniform(0.5, 1.8), rng.uniform(0.0, 1.0)
    in_midtones = rng.random() < 0.5
    shared = blurred(rng.standard_normal((*image.shape[:2], 1), dtype=np.float32), spread)
    own = blurred(rng.standard_normal(image.shape, dtype=np.float32), spread)
    field = np.float32(np.sqrt(1.0 - coloring)) * shared + np.float32(np.sqrt(coloring)) * own
    if in_midtones:
        luma = (image @ LUMA)[..., None]
        field = field * (np.float32(0.5) + np.float32(2.4) * luma * (1.0 - luma))
    return np.clip(image + np.float32(deviation) * field, 0.0, 1.0)


def blotches(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise, color blotches some pixels wide, noise of all scales and row bands to sRGB values ``[H, W, 3]``."""
    height, width = image.shape[:2]
    deviation = level(severity, rng)
    shares = rng.dirichlet([3.0, 2.0, 1.0, 0.3])
    weights = np.sqrt(shares).astype(np.float32)
    spread, exponent = rng.uniform(2.0, 5.0), rng.uniform(0.3, 0.9)
    field = weights[0] * rng.standard_normal(image.shape, dtype=np.float32)
    # Blotches only need a quarter of the resolution.
    small = blurred(rng.standard_normal((height // 4 + 2, width // 4 + 2, 3), dtype=np.float32), spread / 4.0)
    chroma = cv2.resize(small - (small @ LUMA)[..., None], (width, height), interpolation=cv2.INTER_CUBIC)
    field += weights[1] * np.float32(1.2) * (chroma - chroma.mean(axis=(0, 1)))
    field += weights[2] * power_law_noise(height, width, exponent, rng)[..., None]
    rows = rng.standard_normal((height, 1, 1), dtype=np.float32)
    field += weights[3] * (rows - rows.mean())
    return np.clip(image + np.float32(deviation) * field, 0.0, 1.0)


FORMULAS = {
    "original": Formula(noise),
    "camera": Formula(camera, 2.0),
    "white": Formula(white),
    "grain": Formula(grain),
    "blotches": Formula(blotches),
}
"""Formulas for noise, the original first."""
