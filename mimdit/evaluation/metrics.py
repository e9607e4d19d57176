"""PSNR and SSIM per image, in RGB, on the values that an 8-bit file holds: the columns ``psnr_rgb`` and ``ssim_rgb`` of results.

Unlike in pyiqa's ``psnr``, no constant is added to the error, and identical images get 100 dB instead of 80 dB; ``ssim_rgb`` is the mean
over RGB, while pyiqa's ``ssim`` uses luma.
"""

from __future__ import annotations

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

PSNR_OF_IDENTICAL = 100.0
"""PSNR in dB of images that agree in all 8-bit values, whose true PSNR is infinite, and the cap for every pair."""

_WINDOW = 11
"""Side of SSIM's window in pixels."""


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB of each image, at most `PSNR_OF_IDENTICAL`.

    Images and truth are rounded to 8 bits first; the error is averaged over all three channels before the logarithm.

    Args:
        images: ``[B, 3, H, W]`` in 0..1; values outside are clamped.
        truth: Ground truth, of the same shape and range.

    Returns:
        fp32 ``[B]``.

    Raises:
        ValueError: The shapes differ.
    """
    images, truth = _as_eight_bit(images, truth)
    error = (images - truth).double().square().mean(dim=(1, 2, 3))
    return (10 * torch.log10(255.0**2 / error)).clamp(max=PSNR_OF_IDENTICAL).float()


def ssim(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity of each image, the mean over its RGB channels (Wang et al., 2004; pyiqa's default is luma).

    Gaussian window of 11 pixels with sigma 1.5, dynamic range 1 on the rounded values over 255. Positions where the window would overhang
    the image do not count, as in the reference, scikit-image and pyiqa; torchmetrics counts them, on mirrored pixels.

    Args:
        images: ``[B, 3, H, W]`` in 0..1, at least 11 pixels each way; values outside are clamped.
        truth: Ground truth, of the same shape and range.

    Returns:
        fp32 ``[B]``, at most 1.

    Raises:
        ValueError: The shapes differ, or an image is smaller than the window.
    """
    if min(images.shape[2:]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels, got {images.shape[2]}x{images.shape[3]}")
    images, truth = _as_eight_bit(images, truth)
    with torch.autocast(images.device.type, enabled=False):
        settings = {"data_range": 1.0, "reduction": "none", "return_full_image": True}
        similarity = structural_similarity_index_measure(images / 255, truth / 255, **settings)[1]
    overhang = _WINDOW // 2
    return similarity[..., overhang:-overhang, overhang:-overhang].mean(dim=(1, 2, 3))


def identical(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return bool ``[B]``, true where an image equals its truth in all 8-bit values.

    Args:
        images: ``[B, 3, H, W]`` in 0..1; values outside are clamped.
        truth: Ground truth, of the same shape and range.

    Raises:
        ValueError: The shapes differ.
    """
    images, truth = _as_eight_bit(images, truth)
    return (images == truth).all(dim=(1, 2, 3))


def _as_eight_bit(images: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both as whole numbers 0..255 in fp32."""
    if images.shape != truth.shape:
        raise ValueError(f"images of shape {list(images.shape)} and {list(truth.shape)} cannot be compared; give both the same shape")
    images, truth = ((tensor.detach().float().clamp(0, 1) * 255).round() for tensor in (images, truth))
    return images, truth
