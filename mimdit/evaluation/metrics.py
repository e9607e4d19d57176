"""PSNR and SSIM as the results table reports them: per image, in RGB, on what an 8-bit file would hold."""

from __future__ import annotations

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

PSNR_OF_IDENTICAL = 100.0
"""dB given to images that agree in all 8-bit values, and the most that any pair gets: the true value has no bound."""

_WINDOW = 11
"""Pixels of a side of SSIM's window."""


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each image, at most `PSNR_OF_IDENTICAL`.

    Both are rounded to 8 bits first; the error is averaged over all three channels before the logarithm.

    Args:
        images: ``[B, 3, H, W]`` in 0..1; values outside are clamped.
        truth: The same.

    Returns:
        fp32 ``[B]``.

    Raises:
        ValueError: the shapes differ.
    """
    images, truth = _as_eight_bit(images, truth)
    error = (images - truth).double().square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(255.0**2 / error)).clamp(max=PSNR_OF_IDENTICAL).float()


def ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, the mean over its RGB channels (Wang et al. 2004; not on luma as pyiqa's default).

    Gaussian window of 11 pixels with sigma 1.5, dynamic range 1 on the rounded values over 255. Positions where the window would overhang
    the image do not count, as in the reference, scikit-image and pyiqa; torchmetrics alone would count them, on mirrored pixels.

    Args:
        images: ``[B, 3, H, W]`` in 0..1, at least 11 pixels each way; values outside are clamped.
        truth: The same.

    Returns:
        fp32 ``[B]``, at most 1.

    Raises:
        ValueError: the shapes differ, or an image is smaller than the window.
    """
    if min(images.shape[2:]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels, got {images.shape[2]}x{images.shape[3]}")
    images, truth = _as_eight_bit(images, truth)
    with torch.autocast(images.device.type, enabled=False):
        settings = {"data_range": 1.0, "reduction": "none", "return_full_image": True}
        similarity = structural_similarity_index_measure(images / 255, truth / 255, **settings)[1]
    overhang = _WINDOW // 2
    return similarity[..., overhang:-overhang, overhang:-overhang].mean(dim=(1, 2, 3))


def _as_eight_bit(images: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as whole numbers 0..255 in fp32."""
    if images.shape != truth.shape:
        raise ValueError(f"images of shape {list(images.shape)} and {list(truth.shape)} cannot be compared; make them equal")
    return tuple((tensor.detach().float().clamp(0, 1) * 255).round() for tensor in (images, truth))
