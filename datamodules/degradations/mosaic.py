"""Noise of a camera: drawn on the mosaic of a color filter array, interpolated, scaled by the white balance. Not in the paper."""

import cv2
import numpy as np

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
    return cv2.merge([
        cv2.filter2D(red, -1, _SQUARE, borderType=cv2.BORDER_REFLECT_101),
        cv2.filter2D(green, -1, _CROSS, borderType=cv2.BORDER_REFLECT_101),
        cv2.filter2D(blue, -1, _SQUARE, borderType=cv2.BORDER_REFLECT_101),
    ])


def camera_noise(light: np.ndarray, shot: float, read: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise for linear light ``[H, W, 3]``: zero mean, and a variance of about ``shot * light + read`` in the mean of gray, float32.

    The light is divided by white-balance gains, gets one noisy sample a pixel on a Bayer mosaic of random phase, and the noise takes the
    way of the samples: interpolation, then the gains. So red and blue are noisier than green and neighbors are correlated. As the
    interpolation is linear, the noise can be added to the light as it is, which has not lost its detail to the mosaic.
    """
    gains = np.array([rng.uniform(1.2, 2.4), 1.0, rng.uniform(1.2, 2.2)], np.float32)
    masks = bayer_masks(*light.shape[:2], (int(rng.integers(2)), int(rng.integers(2))))
    # Bilinear interpolation leaves 9/16 of the variance in red and blue, 5/8 in green, in the mean over the sites.
    kept = np.array([9.0 / 16.0, 5.0 / 8.0, 9.0 / 16.0])
    shot = shot / float((kept * gains).mean())
    read = read / float((kept * gains**2).mean())
    field = rng.standard_normal(light.shape[:2], dtype=np.float32)[..., None] * masks
    return demosaic(field * np.sqrt(np.float32(shot) * np.maximum(light, 0.0) / gains + np.float32(read))) * gains


def lost_detail(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what the mosaic and its interpolation change in an image ``[H, W, 3]``: color fringes and softness at edges."""
    masks = bayer_masks(*image.shape[:2], (int(rng.integers(2)), int(rng.integers(2))))
    return demosaic(image * masks) - image
