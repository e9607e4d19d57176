"""Blend of an image with its restoration in linear light, by an amount and a mask. Not in the paper."""

from __future__ import annotations

import cv2
import numpy as np

from mimdit.core.canvas import in_rows

_FEATHER_SHARE = 0.01
"""Width of a mask's soft edge by default, as a share of the shorter side."""


def blend(original: np.ndarray, restored: np.ndarray, amount: float = 1.0, weights: np.ndarray | None = None) -> np.ndarray:
    """Return ``original`` and ``restored`` blended in linear light, with the transfer function of sRGB (IEC 61966-2-1).

    Equal encoded values are not equal amounts of light: a blend of encoded values would darken edges between light and dark. Where the
    weight is 0 the original's values are returned, and where it is 1 the restored ones, exactly.

    Args:
        original: ``[H, W, C]`` of uint8 or uint16.
        restored: Of the same shape and type.
        amount: Share of the restored image, 0..1.
        weights: Share of the restored image at each pixel, ``[H, W]`` in 0..1, which ``amount`` multiplies; None for 1 everywhere.

    Raises:
        ValueError: ``amount`` is out of range.
    """
    check_amount(amount)
    if weights is None and amount in (0, 1):
        return restored if amount == 1 else original
    blended, most = np.empty_like(original), np.iinfo(original.dtype).max
    for rows in in_rows(*original.shape[:2]):
        share = np.float64(amount) if weights is None else amount * weights[rows, :, None].astype(np.float64)
        light = (1 - share) * to_light(original[rows] / most) + share * to_light(restored[rows] / most)
        mixed = np.rint(from_light(light) * most).astype(original.dtype)
        blended[rows] = np.where(share == 0, original[rows], np.where(share == 1, restored[rows], mixed))
    return blended


def check_amount(amount: float) -> None:
    """Raise ValueError if ``amount`` is outside 0..1."""
    if not 0 <= amount <= 1:
        raise ValueError(f"amount={amount} is out of range; give 0 (the original) to 1 (the restored image)")


def feathered(mask: np.ndarray, size: tuple[int, int], feather: float | None = None) -> np.ndarray:
    """Return the weights of a mask, ``[H, W]`` in 0..1, fp32, with a soft edge inside the white.

    A pixel's weight is its value, times a linear ramp over its distance to the nearest black pixel: black stays exactly 0.

    Args:
        mask: ``[H, W]`` or ``[H, W, 1 or 3]``, of bool, uint8, uint16 or floats in 0..1: white is restored, black is kept, gray is
            blended. Colors are averaged.
        size: Height and width of the image.
        feather: Width of the ramp in pixels; 0 for none, None for one percent of the shorter side, at least 1.

    Raises:
        ValueError: The mask is of another size, type or range, or ``feather`` is negative.
    """
    check_feather(feather)
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and mask.shape[2] not in (1, 3)):
        raise ValueError(f"the mask has shape {list(mask.shape)}; give [H, W] or [H, W, 1 or 3]")
    if mask.shape[:2] != size:
        sizes = f"{mask.shape[1]}x{mask.shape[0]} pixels and the image, upright, {size[1]}x{size[0]}"
        raise ValueError(f"the mask is {sizes}; give a mask of the image's size")
    if mask.dtype.kind not in "buf":
        raise ValueError(f"the mask is {mask.dtype}; give bool, uint8, uint16, or floats in 0..1")
    most = np.iinfo(mask.dtype).max if mask.dtype.kind == "u" else 1
    weights = mask.astype(np.float32) / np.float32(most)
    if not (weights.min() >= 0 and weights.max() <= 1):
        raise ValueError(f"the mask's values reach from {weights.min():g} to {weights.max():g}; give floats in 0..1")
    weights = weights.mean(axis=2) if mask.ndim == 3 else weights
    width = max(1.0, _FEATHER_SHARE * min(weights.shape)) if feather is None else feather
    if width == 0 or (weights > 0).all():
        return weights
    distance = cv2.distanceTransform((weights > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return weights * np.minimum(distance / np.float32(width + 1), 1)


def check_feather(feather: float | None) -> None:
    """Raise ValueError if ``feather`` is negative."""
    if feather is not None and not 0 <= feather < float("inf"):
        raise ValueError(f"feather={feather} must be a number of pixels, at least 0; 0 is a hard edge")


def to_light(encoded: np.ndarray) -> np.ndarray:
    """Return linear light in 0..1 from values encoded as sRGB, in 0..1."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def from_light(light: np.ndarray) -> np.ndarray:
    """Undo `to_light`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
