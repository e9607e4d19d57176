"""Identification of an image's elementary degradations from the routers' features and the image's own statistics.

Shape legend: M MiM blocks, B images, F router features, S image statistics, A atoms.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.image_statistics import NUM_STATISTICS
from mimdit.core.batch import ATOMS
from mimdit.routing.router import outside_autocast

TONE_ATOMS = ("haze", "rain", "lowlight")
"""Degradations that change the tone of the whole image; rain does with its veil."""


_LARGEST = 5.0


class IdentificationHead(nn.Module):
    """Head that predicts the presence of each of `mimdit.core.batch.ATOMS`. Not in the paper (compare AutoDIR, arXiv 2310.10123).

    With ``statistics`` its inputs are normalized by ``center`` and ``spread``, which `mimdit.restorer.refitting` measures; 0 and 1 before.

    Args:
        num_features: Length of the feature vector: mean and log-std of the channels before each block and after the last.
        width: Inner width.
        statistics: If true, also read `mimdit.conditioner.image_statistics`.
    """

    center: torch.Tensor
    spread: torch.Tensor

    def __init__(self, num_features: int, *, width: int = 128, statistics: bool = False) -> None:
        super().__init__()
        self.statistics = statistics
        num_inputs = num_features + NUM_STATISTICS * statistics
        self.network = nn.Sequential(nn.Linear(num_inputs, width), nn.SiLU(), nn.Linear(width, len(ATOMS)))
        if statistics:
            self.register_buffer("center", torch.zeros(num_inputs))
            self.register_buffer("spread", torch.ones(num_inputs))

    def forward(self, features: list[torch.Tensor], statistics_BS: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits ``[B, A]``, fp32.

        Args:
            features: Features ``[B, F]`` before each block and after the last.
            statistics_BS: Statistics of the images, if the head reads them.
        """
        inputs_BF = torch.cat(features, dim=1)
        if self.statistics:
            assert statistics_BS is not None, "a head with statistics needs them"
            inputs_BF = torch.cat([inputs_BF.float(), statistics_BS.to(inputs_BF.device)], dim=1)
        return self.read(inputs_BF)

    def read(self, inputs_BF: torch.Tensor) -> torch.Tensor:
        """Return logits ``[B, A]``, fp32, for all inputs in one tensor."""
        with outside_autocast(inputs_BF):
            if self.statistics:
                inputs_BF = normalized(inputs_BF, self.center, self.spread)
            return self.network(inputs_BF.to(next(self.network.parameters()).dtype)).float()


def normalized(inputs: torch.Tensor, center: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Return inputs in standard deviations from their centers, limited to five: images unlike all in training extrapolate no further."""
    return ((inputs - center) / spread).clamp(-_LARGEST, _LARGEST)


def presence_scales(logits_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors in 0..1, ``[B, 1, 1, 1]``, for the estimate's tone and detail corrections. Not in the paper.

    The first is the probability that any of `TONE_ATOMS` is present, the second that any atom is present: without a degradation the image
    is returned unchanged. No gradient reaches the logits, which only their own loss trains.
    """
    absent_BA = torch.sigmoid(-logits_BA.detach())
    tone = [ATOMS.index(atom) for atom in TONE_ATOMS]
    toned_B, degraded_B = 1 - absent_BA[:, tone].prod(dim=1), 1 - absent_BA.prod(dim=1)
    return toned_B[:, None, None, None], degraded_B[:, None, None, None]
