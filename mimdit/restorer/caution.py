"""Corrections scaled by the probability of the degradations; images without a likely one stay as they are. Not in the paper.

The fine part of a correction (`mimdit.restorer.correction`) gets the largest share that any degradation brings, its tone the largest of
those that change the tone: a noisy photograph is not made brighter because its noise is certain.

Shape legend: B images, A atoms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mimdit.conditioner.identification import TONE_ATOMS
from mimdit.core.batch import ATOMS
from mimdit.core.named_numbers import parse_named_numbers
from mimdit.restorer.correction import tone_of

START = 0.8
"""Fraction of a caution up to which nothing is corrected: most photographs should be corrected in full or not at all."""

_TONE_COLUMNS = [ATOMS.index(atom) for atom in TONE_ATOMS]


def check_caution(caution: float | Mapping[str, float]) -> None:
    """Check a probability for all degradations, or one for each by name.

    Raises:
        ValueError: A value is out of range, a name is unknown, or there is no name.
    """
    if not isinstance(caution, Mapping):
        if not 0 <= caution <= 1:
            raise ValueError(f"caution={caution} is outside 0..1; 0 corrects every image in full")
        return
    if not caution:
        raise ValueError("caution names no degradation, so nothing would be corrected; use caution: 0 to correct every image in full")
    if unknown := [name for name in caution if name not in ATOMS]:
        raise ValueError(f"caution {', '.join(map(repr, unknown))}: there is no such degradation; choose from {', '.join(ATOMS)}")
    for name, value in caution.items():
        if not 0 < value <= 1:
            raise ValueError(f"caution {name}={value:g} must be above 0 and at most 1; a degradation that is not named does not count")


def parse_caution(text: str) -> float | dict[str, float]:
    """Parse ``0.5`` or ``noise=0.5,rain=0.7``.

    Raises:
        ValueError: The text is neither a number nor ``name=number``, separated by commas, or a name comes twice.
    """
    try:
        return float(text)
    except ValueError:
        return parse_named_numbers(text, option="caution", example="a number, or name=value such as noise=0.5,rain=0.7")


def shares(identified_BA: torch.Tensor, caution: float | Mapping[str, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shares in 0..1 of the fine part and of the tone that each image gets, ``fine_B`` and ``tone_B``.

    The share that a degradation brings is 1 from a probability of its caution on, 0 up to `START` of that, and linear between. The fine
    part gets the largest share that any degradation brings, the tone the largest of `TONE_ATOMS`.

    Args:
        identified_BA: Logits of the degradations `mimdit.core.batch.ATOMS`.
        caution: Probability in (0, 1], for all degradations or for each by name; those without one bring no share.
    """
    assert caution, "without caution there is nothing to scale"
    by_name = caution if isinstance(caution, Mapping) else dict.fromkeys(ATOMS, caution)
    caution_A = torch.tensor([by_name.get(atom, math.inf) for atom in ATOMS], device=identified_BA.device)
    shares_BA = ((torch.sigmoid(identified_BA.float()) / caution_A - START) / (1 - START)).clamp(0, 1)
    return shares_BA.amax(dim=1), shares_BA[:, _TONE_COLUMNS].amax(dim=1)


def gated(
    degraded: torch.Tensor,
    restored: torch.Tensor,
    degradation_BA: torch.Tensor,
    identified_BA: torch.Tensor | None,
    *,
    by: str,
    caution: float | Mapping[str, float],
) -> torch.Tensor:
    """Return what a restorer with ``gate_estimate`` trains: ``restored`` with the shares that `shares` gives, ``[B, C, H, W]``, fp32.

    Differentiable in ``restored``, and not clamped.

    Args:
        degraded: Degraded images or latents ``[B, C, H, W]``, one latent a pixel.
        restored: Restored ones, alike.
        degradation_BA: Multi-hot degradations.
        identified_BA: Logits of the degradations; not needed for ``labels``.
        by: ``labels``, as if every degradation were identified with certainty, or ``identified``, as at inference.
        caution: Probability in 0..1 from which a degradation is corrected in full, or one for each by name; ``labels`` do not depend on it.
    """
    if by == "labels":
        fine_B, tone_B = degradation_BA.amax(dim=1), degradation_BA[:, _TONE_COLUMNS].amax(dim=1)
    else:
        assert identified_BA is not None, "check_gated_estimate requires an identification head"
        fine_B, tone_B = shares(identified_BA.detach(), caution)
    change = restored.float() - degraded.float()
    tone = tone_of(change)
    fine_B, tone_B = (share_B.to(change)[:, None, None, None] for share_B in (fine_B, tone_B))
    return degraded.float() + fine_B * (change - tone) + tone_B * tone
