"""Restoration of arrays of pixels, as files and pipelines hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mimdit.core.canvas import canvas, in_rows
from mimdit.restorer.blending import blend, check_blending
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings

_RANGE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def images_of(pixels: np.ndarray) -> torch.Tensor:
    """Return one image of uint8 or uint16 as fp32 ``[1, 3, H, W]`` in 0..1, a large one in a file (`mimdit.core.canvas`).

    Args:
        pixels: ``[H, W, 1 or 3]``, gray or RGB. Gray becomes three equal channels.

    Raises:
        ValueError: The array is of another type or shape.
    """
    if pixels.dtype not in _RANGE or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(f"pixels are {pixels.dtype} of shape {list(pixels.shape)}; give uint8 or uint16 of [H, W, 1 or 3]")
    max_value, images = _RANGE[pixels.dtype], canvas(1, 3, *pixels.shape[:2])
    for rows in in_rows(*pixels.shape[:2]):
        images[0, :, rows] = torch.from_numpy(pixels[rows].astype(np.float32) / max_value).permute(2, 0, 1)
    return images


def restore_pixels(
    restorer: Restorer,
    pixels: np.ndarray,
    settings: SamplingSettings | None = None,
    *,
    amount: float = 1.0,
    mask: np.ndarray | None = None,
    original: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """Restore one image of uint8 or uint16; shape and type stay.

    Args:
        restorer: The restorer.
        pixels: ``[H, W, 1 or 3]``, gray or RGB. Gray is restored as three equal channels, whose mean is returned.
        settings: How to restore; None for the restorer's own settings.
        amount: Share of the restored image in the result, 0..1; see `mimdit.restorer.blending.blend`.
        mask: Further shares ``[H, W]`` in 0..1, such as those of `mimdit.restorer.blending.feathered`.
        original: Image to blend with, and to return to where caution leaves the correction out, of the same shape and type; None for
            ``pixels``.
        **options: Other arguments of `Restorer.restore`.

    Raises:
        ValueError: The array is of another type or shape, or a setting is out of range.
    """
    images = images_of(pixels)
    check_blending(pixels, amount, mask)
    max_value, result = _RANGE[pixels.dtype], np.empty_like(pixels)
    if original is not None:
        options["original"] = images_of(original)
    restored = restorer.restore(images, settings, **options)[0]
    for rows in in_rows(*pixels.shape[:2]):
        piece = restored[:, rows] if pixels.shape[2] == 3 else restored[:, rows].mean(dim=0, keepdim=True)
        result[rows] = piece.mul(max_value).round_().permute(1, 2, 0).numpy()
    return blend(result, pixels if original is None else original, amount=amount, mask=mask)
