"""Corrections no larger than the identification is sure of: what has no likely degradation stays as it is. Not in the paper.

Shape legend: B images, A atoms.
"""

from __future__ import annotations

import torch

from mimdit.core.canvas import canvas, in_rows


def check_caution(caution: float) -> None:
    """Raise ValueError if ``caution`` is outside 0..1."""
    if not 0 <= caution <= 1:
        raise ValueError(f"caution={caution} is outside 0..1; 0 corrects every image in full")


def correction_amounts(identified_BA: torch.Tensor, caution: float) -> torch.Tensor:
    """Return the share of the correction that each image gets, ``[B]`` in 0..1.

    It is 1 where the most likely degradation has at least the probability ``caution``, 0 where it has at most half of that, and linear
    between.

    Args:
        identified_BA: Logits of the degradations.
        caution: Probability in (0, 1].
    """
    assert caution > 0, "without caution there is nothing to scale"
    likeliest_B = torch.sigmoid(identified_BA.float()).amax(dim=1)
    return (2 * likeliest_B / caution - 1).clamp(0, 1)


def corrected_in_part(images: torch.Tensor, restored: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Return ``images + amounts * (restored - images)``, equal to ``images`` or ``restored`` to the bit for amounts of 0 and 1.

    Args:
        images: Degraded images ``[B, 3, H, W]`` in 0..1.
        restored: Restored images, alike.
        amounts: Shares ``[B]`` in 0..1.
    """
    share, result = amounts.to(restored.device)[:, None, None, None], canvas(*restored.shape, device=restored.device)
    for rows in in_rows(*restored.shape[2:]):
        result[:, :, rows] = torch.lerp(images[:, :, rows].to(restored), restored[:, :, rows], share)
    return result
