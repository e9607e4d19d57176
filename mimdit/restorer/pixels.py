"""Restoration of arrays of pixels, as files and pipelines hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mimdit.core.canvas import canvas, in_rows
from mimdit.restorer.blending import blend, check_amount, check_feather, feathered
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings

_RANGE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def restore_pixels(
    restorer: Restorer,
    pixels: np.ndarray,
    settings: SamplingSettings | None = None,
    *,
    amount: float = 1.0,
    mask: np.ndarray | None = None,
    feather: float | None = None,
    **options: Any,
) -> np.ndarray:
    """Restore one image of uint8 or uint16; shape and type stay.

    Args:
        restorer: The restorer.
        pixels: ``[H, W, 1 or 3]``, gray or RGB. Gray is restored as three equal channels, whose mean is returned.
        settings: How to restore; None for the restorer's own settings.
        amount: Share of the restored image in the result, 0..1; the rest is the original, in linear light (`blend`).
        mask: Where to restore, of the image's height and width; see `feathered`. None for everywhere.
        feather: Width of the mask's soft edge in pixels; see `feathered`.
        **options: Other arguments of `Restorer.restore`.

    Raises:
        ValueError: The array or the mask is of another type or shape, or a setting is out of range.
    """
    check_amount(amount)
    check_feather(feather)
    images = as_images(pixels)
    weights = None if mask is None else feathered(mask, (pixels.shape[0], pixels.shape[1]), feather)
    result, most = np.empty_like(pixels), _RANGE[pixels.dtype]
    restored = restorer.restore(images, settings, **options)[0]
    for rows in in_rows(*pixels.shape[:2]):
        piece = restored[:, rows] if pixels.shape[2] == 3 else restored[:, rows].mean(dim=0, keepdim=True)
        result[rows] = piece.mul(most).round_().permute(1, 2, 0).numpy()
    return blend(pixels, result, amount, weights)


def as_images(pixels: np.ndarray) -> torch.Tensor:
    """Return pixels ``[H, W, 1 or 3]`` of uint8 or uint16 as images ``[1, 3, H, W]`` in 0..1; gray becomes three equal channels.

    Raises:
        ValueError: The array is of another type or shape.
    """
    if pixels.dtype not in _RANGE or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels are {pixels.dtype} of shape {list(pixels.shape)}; give uint8 or uint16 of [H, W, 1 or 3]")
    most = _RANGE[pixels.dtype]
    images = canvas(1, 3, *pixels.shape[:2])
    for rows in in_rows(*pixels.shape[:2]):
        images[0, :, rows] = torch.from_numpy(pixels[rows].astype(np.float32) / most).permute(2, 0, 1)
    return images
