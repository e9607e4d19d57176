"""Corrections no larger than the identification is sure of: what has no likely degradation stays as it is. Not in the paper.

The fine part of a correction (`mimdit.restorer.correction`) is as sure as the most likely degradation. Its tone is as sure as the most
likely of those that change the tone: a noisy photograph is not made brighter because its noise is certain.

Shape legend: B images, A atoms.
"""

from __future__ import annotations

import torch

from mimdit.core.batch import ATOMS

TONE = ("haze", "rain", "lowlight")
"""Degradations that change the tone; rain does with its veil."""


def check_caution(caution: float) -> None:
    """Raise ValueError if ``caution`` is outside 0..1."""
    if not 0 <= caution <= 1:
        raise ValueError(f"caution={caution} is outside 0..1; 0 corrects every image in full")


def shares(identified_BA: torch.Tensor, caution: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shares in 0..1 of the fine part and of the tone that each image gets, ``fine_B`` and ``tone_B``.

    A share is 1 where the most likely degradation has at least the probability ``caution``, 0 where it has at most half of that, and linear
    between. All degradations count for the fine part, `TONE` for the tone.

    Args:
        identified_BA: Logits of the degradations `mimdit.core.batch.ATOMS`.
        caution: Probability in (0, 1].
    """
    assert caution > 0, "without caution there is nothing to scale"
    shares_BA = (2 * torch.sigmoid(identified_BA.float()) / caution - 1).clamp(0, 1)
    return shares_BA.amax(dim=1), shares_BA[:, [ATOMS.index(atom) for atom in TONE]].amax(dim=1)
