"""Restoring arrays of pixels: what every way in, command or pipeline, has in common."""

from __future__ import annotations

import numpy as np
import torch

from mimdit.core.canvas import canvas, in_rows
from mimdit.restorer.restorer import Restorer

_RANGE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def restore_pixels(restorer: Restorer, pixels: np.ndarray, **settings: object) -> np.ndarray:
    """Restore ``[H, W, 1 or 3]``, grey or RGB, uint8 or uint16; the shape and type stay.

    Grey goes in as three equal channels and comes out as their mean. ``settings`` are those of `Restorer.restore`.

    Raises:
        ValueError: The array is of another type or shape.
    """
    if pixels.dtype not in _RANGE or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels are {pixels.dtype} of shape {list(pixels.shape)}; give uint8 or uint16 of [H, W, 1 or 3]")
    most = _RANGE[pixels.dtype]
    images, result = canvas(1, 3, *pixels.shape[:2]), np.empty_like(pixels)
    for rows in in_rows(*pixels.shape[:2]):
        images[0, :, rows] = torch.from_numpy(pixels[rows].astype(np.float32) / most).permute(2, 0, 1)
    restored = restorer.restore(images, **settings)[0]
    for rows in in_rows(*pixels.shape[:2]):
        piece = restored[:, rows] if pixels.shape[2] == 3 else restored[:, rows].mean(dim=0, keepdim=True)
        result[rows] = piece.mul(most).round_().permute(1, 2, 0).numpy()
    return result
