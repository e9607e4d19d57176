"""A correction in two parts, each of which may be added in full, in part or not at all. Not in the paper.

- **tone**: the correction after a Gaussian low-pass. What haze and darkness did to an image is in it, and the veil of rain.
- **fine**: the rest. Noise, JPEG blocks, streaks, drops and blur are in it.

Shape legend: B images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mimdit.core.canvas import canvas, in_rows
from mimdit.routing.router import outside_autocast

SIGMA = 4.0
"""Standard deviation in pixels of the Gaussian that separates tone and fine part."""

_REACH = round(3 * SIGMA)


def corrected(images: torch.Tensor, restored: torch.Tensor, *, fine_B: torch.Tensor, tone_B: torch.Tensor) -> torch.Tensor:
    """Return ``images + fine_B * fine + tone_B * tone`` in 0..1, fp32, where ``fine + tone`` is ``restored - images``.

    Images whose two shares are both 0 or both 1 are ``images`` or ``restored`` to the bit.

    Args:
        images: Degraded images ``[B, 3, H, W]`` in 0..1.
        restored: Restored images, alike.
        fine_B: Share of the fine part, in 0..1.
        tone_B: Share of the tone, in 0..1.
    """
    size, device = restored.shape[2:], restored.device
    result = canvas(*restored.shape, device=device)
    for index, (fine, tone) in enumerate(zip(fine_B.tolist(), tone_B.tolist(), strict=True)):
        one = slice(index, index + 1)
        for rows in in_rows(*size):
            result[one, :, rows] = torch.lerp(images[one, :, rows].to(restored), restored[one, :, rows], fine)
            if tone != fine:
                coarse = low_pass(restored[one], rows, size, minus=images[one])
                result[one, :, rows].add_(coarse, alpha=tone - fine).clamp_(0, 1)
    return result


def tone_of(change: torch.Tensor) -> torch.Tensor:
    """Return the tone of whole changes ``[B, C, H, W]``, fp32, in one piece; the rest is the fine part."""
    return low_pass(change, slice(0, change.shape[2]), change.shape[2:])


def low_pass(images: torch.Tensor, rows: slice, size: Sequence[int], *, scale: int = 1, minus: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``rows`` of images after a Gaussian of standard deviation `SIGMA`, cut off at three of them, edges replicated.

    Args:
        images: ``[B, C, h, w]``.
        rows: Rows of the result.
        size: Height and width of the whole result.
        scale: Positions of the result per position of ``images``, each of which is repeated before the filter.
        minus: Images of the same shape that are subtracted first; None subtracts nothing.
    """
    height, width = size
    down = torch.arange(rows.start - _REACH, rows.stop + _REACH, device=images.device).clamp_(0, height - 1) // scale
    across = torch.arange(-_REACH, width + _REACH, device=images.device).clamp_(0, width - 1) // scale
    offsets = torch.arange(-_REACH, _REACH + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    seen = images[:, :, down][..., across].float()
    if minus is not None:
        seen = seen - minus[:, :, down.to(minus.device)][..., across.to(minus.device)].to(seen)
    with outside_autocast(seen):
        seen = torch.nn.functional.conv2d(seen, kernel[:, :, :, None], groups=images.shape[1])
        return torch.nn.functional.conv2d(seen, kernel[:, :, None, :], groups=images.shape[1])
