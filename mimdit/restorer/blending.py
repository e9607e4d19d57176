"""Blending of a result with its original in linear light: an amount, and a mask with a feathered edge. Not in the paper."""

from __future__ import annotations

import cv2
import numpy as np

from mimdit.core.canvas import in_rows
from mimdit.core.srgb import to_linear, to_srgb

FEATHER = 8
"""Default width of a mask's edge, in pixels."""


def blend(restored: np.ndarray, original: np.ndarray, *, amount: float = 1.0, mask: np.ndarray | None = None) -> np.ndarray:
    """Blend two images of uint8 or uint16, ``[H, W, C]``, in linear light; the result replaces ``restored`` and is returned.

    A pixel whose weight is 0 or 1 is exactly that of the original or of the restored image.

    Args:
        restored: The restored image.
        original: Its original, of the same shape and type.
        amount: Share of the restored image, 0..1.
        mask: Further shares ``[H, W]`` in 0..1, such as those of `feathered`; None for 1 everywhere.

    Raises:
        ValueError: ``amount`` is outside 0..1, or the mask has another size.
    """
    check_blending(original, amount, mask)
    if amount == 1 and mask is None:
        return restored
    max_value = np.iinfo(original.dtype).max
    for rows in in_rows(*original.shape[:2]):
        share = np.full((1, 1, 1), amount, np.float64) if mask is None else amount * mask[rows, :, None].astype(np.float64)
        old, new = (to_linear(image[rows] / max_value, dtype=np.float64) for image in (original, restored))
        mixed = np.round(to_srgb((1 - share) * old + share * new, dtype=np.float64) * max_value).astype(original.dtype)
        restored[rows] = np.where(share == 0, original[rows], np.where(share == 1, restored[rows], mixed))
    return restored


def brightness(pixels: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """Return a mask ``[H, W]`` from an image ``[H, W, C]`` of uint8 or uint16: the mean of its channels.

    What is transparent by ``alpha [H, W]`` is black: the colors under it may be anything.
    """
    mean = pixels.mean(axis=2)
    if alpha is not None:
        mean = mean * (alpha / np.iinfo(alpha.dtype).max)
    return mean.round().astype(pixels.dtype)


def feathered(mask: np.ndarray, width: int = FEATHER) -> np.ndarray:
    """Return shares ``[H, W]`` in 0..1, fp32, from a mask ``[H, W]`` of uint8 or uint16: 0 where it is black, rising inside.

    The edge lies on the white side, so that black pixels stay exactly as they are: a pixel at a distance d from the nearest black one has
    at most the share ``d / (width + 1)``.

    Raises:
        ValueError: ``width`` is negative.
    """
    if width < 0:
        raise ValueError(f"feather={width} is negative; use 0 for a hard edge")
    shares = mask.astype(np.float32) / np.iinfo(mask.dtype).max
    if width == 0 or mask.all():
        return shares
    distances = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(shares, distances / (width + 1))


def check_blending(image: np.ndarray, amount: float, mask: np.ndarray | None) -> None:
    """Check that an amount and a mask suit an image ``[H, W, C]``.

    Raises:
        ValueError: ``amount`` is outside 0..1, or the mask has another size.
    """
    check_amount(amount)
    if mask is not None and mask.shape != image.shape[:2]:
        (height, width), (rows, columns) = mask.shape, image.shape[:2]
        raise ValueError(f"the mask has {width}x{height} pixels and the image {columns}x{rows}; give a mask of the image's size")


def check_amount(amount: float) -> None:
    """Raise ValueError if ``amount`` is outside 0..1."""
    if not 0 <= amount <= 1:
        raise ValueError(f"amount={amount} is outside 0..1; 0 keeps the original, 1 is the restored image")
