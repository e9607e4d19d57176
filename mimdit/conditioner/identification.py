"""Identification of an image's elementary degradations from the routers' features.

Shape legend: M MiM blocks, B images, F router features, A atoms.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.core.batch import ATOMS
from mimdit.routing.router import outside_autocast

TONE_ATOMS = ("haze", "rain", "lowlight")
"""Degradations that change the tone of the whole image; rain does with its veil."""


class IdentificationHead(nn.Module):
    """Head that predicts the presence of each of `mimdit.core.batch.ATOMS`. Not in the paper (compare AutoDIR, arXiv 2310.10123).

    Args:
        num_features: Length of the feature vector: mean and log-std of the channels before each block and after the last.
        width: Inner width.
    """

    def __init__(self, num_features: int, *, width: int = 128) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(num_features, width), nn.SiLU(), nn.Linear(width, len(ATOMS)))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return logits ``[B, A]``, fp32, for the features ``[B, F]`` before each block and after the last."""
        features_BF = torch.cat(features, dim=1)
        with outside_autocast(features_BF):
            return self.network(features_BF.to(next(self.network.parameters()).dtype)).float()


def presence_scales(logits_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors in 0..1, ``[B, 1, 1, 1]``, for the estimate's tone and detail corrections. Not in the paper.

    The first is the probability that any of `TONE_ATOMS` is present, the second that any atom is present: without a degradation the image
    is returned unchanged. No gradient reaches the logits, which only their own loss trains.
    """
    absent_BA = torch.sigmoid(-logits_BA.detach())
    tone = [ATOMS.index(atom) for atom in TONE_ATOMS]
    toned_B, degraded_B = 1 - absent_BA[:, tone].prod(dim=1), 1 - absent_BA.prod(dim=1)
    return toned_B[:, None, None, None], degraded_B[:, None, None, None]
