"""Inter-MoE, the coarse level: heterogeneous groups of experts, fused densely by what the image looks like.

Shape legend: B images, F router features, G groups, E sub-experts (padded to the largest group), K chosen.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.conditioner.piece import Piece
from mimdit.routing.router import Router
from mimdit.routing.routing import Gates

DEFAULT_GROUPS = ("spatial", "channel", "swin", "se")


class InterMoE(nn.Module):
    """Softmax-weighted sum of the groups' outputs (paper: Inter-MoE).

    Args:
        dim: Channels C of the hidden states.
        hidden: Inner channels of one sub-expert.
        groups: Kind of each group; naming one kind four times makes it homogeneous.
        num_experts: Sub-experts per group.
        top_k: Sub-experts per image and group.
        inter: ``dense`` (the paper), ``sparse`` (only ``inter_top_k`` groups count) or ``uniform`` (no gate).
        inter_top_k: Groups kept when ``inter`` is sparse.
        intra: ``sparse`` (the paper), ``dense`` or ``none``; see `IntraMoE`.
        shift: Shift the windows of Swin experts.
        dispatch: How images reach their sub-experts; see `IntraMoE`.
        num_features: Length F of the vector that the gates read; None for mean and log-std of ``dim`` channels.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        groups: tuple[str, ...] = DEFAULT_GROUPS,
        num_experts: int = 4,
        *,
        top_k: int = 2,
        inter: str = "dense",
        inter_top_k: int = 1,
        intra: str = "sparse",
        shift: bool = False,
        dispatch: str = "auto",
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        num_features = 2 * dim if num_features is None else num_features
        self.router = Router(num_features, len(groups), mode=inter, top_k=inter_top_k)
        gates = {"top_k": top_k, "mode": intra, "num_features": num_features}
        self.groups = nn.ModuleList(
            IntraMoE(kind, dim, hidden, num_experts, shift=shift, dispatch=dispatch, **gates) for kind in groups
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        features_BF: torch.Tensor | None,
        inter: Gates | None = None,
        intra: Gates | None = None,
        statistics: list[tuple[torch.Tensor, ...]] | None = None,
    ) -> tuple[torch.Tensor, Gates, Gates]:
        """Fuse all groups for ``hidden_states [B, C, H, W]``; given gates (``inter [B, G]``, ``intra [G, B, E]``) are obeyed.

        ``statistics``, one entry a group, replace what the experts would read of the whole of ``hidden_states``.
        """
        if inter is None:
            inter = self.router(features_BF)
        fused, decided = 0, []
        for index, group in enumerate(self.groups):
            given = None if intra is None else intra.map(lambda tensor, g=index: tensor[g])
            output, gates = group(hidden_states, features_BF, given, None if statistics is None else statistics[index])
            fused = fused + output * inter.weights[:, index, None, None, None].to(output.dtype)
            decided.append(gates)
        return fused, inter, Gates.stack(decided)

    def statistics(self, hidden_states: torch.Tensor, intra: Gates, piece: Piece) -> list[tuple[torch.Tensor, ...]]:
        """The piece's share of what the experts of each group read of the whole image."""
        gates = (intra.map(lambda tensor, g=index: tensor[g]) for index in range(len(self.groups)))
        return [group.statistics(hidden_states, given, piece) for group, given in zip(self.groups, gates)]

    def route(self, features_BF: torch.Tensor) -> tuple[Gates, Gates]:
        """Decide every gate from ``features_BF`` alone, without running an expert."""
        return self.router(features_BF), Gates.stack([group.router(features_BF) for group in self.groups])
