"""Inter-MoE, the coarse level: heterogeneous expert groups, fused densely with weights that depend on the image.

Shape legend: B images, C channels, F router features, G expert groups, E sub-experts per group, K chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.conditioner.piece import Piece
from mimdit.routing.router import LINEAR, RouterOptions
from mimdit.routing.routing import Gates

DEFAULT_GROUPS = ("spatial", "channel", "swin", "se")


class InterMoE(nn.Module):
    """Softmax-weighted sum of the outputs of heterogeneous expert groups (paper, section 3: Inter-MoE).

    The groups are the paper's: spatial attention, channel attention, Swin window attention, squeeze-and-excitation. The modes ``sparse``
    and ``uniform`` are for ablations. Not in the paper: the features that the gate reads, and the gains.

    Args:
        dim: Channels C of the hidden states.
        hidden: Inner channels of one sub-expert.
        groups: Expert kind of each group; one kind four times makes the Inter-MoE homogeneous.
        num_experts: Sub-experts per group.
        top_k: Sub-experts per image and group.
        inter: ``dense`` (the paper), ``sparse`` (only ``inter_top_k`` groups have weight) or ``uniform`` (no gate).
        inter_top_k: Groups kept when ``inter`` is sparse.
        intra: ``sparse`` (the paper), ``dense`` or ``none``; see `IntraMoE`.
        shift: If true, shift the windows of Swin experts.
        dispatch: Execution of the sub-experts; see `IntraMoE`.
        num_features: Length F of the router features; None for mean and log-std of ``dim`` channels.
        router: Kind of the routers.
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
        router: RouterOptions = LINEAR,
    ) -> None:
        super().__init__()
        num_features = 2 * dim if num_features is None else num_features
        self.router = router.make(num_features, len(groups), mode=inter, top_k=inter_top_k)
        gates = {"top_k": top_k, "mode": intra, "num_features": num_features, "router": router}
        experts = (IntraMoE(kind, dim, hidden, num_experts, shift=shift, dispatch=dispatch, **gates) for kind in groups)
        self.groups = cast(Sequence[IntraMoE], nn.ModuleList(experts))

    def forward(
        self,
        hidden_states: torch.Tensor,
        features_BF: torch.Tensor | None,
        inter: Gates | None = None,
        intra: Gates | None = None,
        gains_G: torch.Tensor | None = None,
        *,
        statistics: list[tuple[torch.Tensor, ...]] | None = None,
    ) -> tuple[torch.Tensor, Gates, Gates]:
        """Fuse the outputs of all groups for ``hidden_states [B, C, H, W]``; return them with the gates of `decide`.

        ``statistics``, one entry per group, replace the global statistics that the experts would compute from ``hidden_states``: with them
        ``hidden_states`` may be a piece of the image.
        """
        inter_gates, intra_gates = self.decide(features_BF, inter, intra, gains_G)
        fused: torch.Tensor | None = None
        for index, (group, gates) in enumerate(zip(self.groups, intra_gates.unbind())):
            output, _ = group(hidden_states, None, gates, None if statistics is None else statistics[index])
            weighted = output * inter_gates.weights[:, index, None, None, None].to(output.dtype)
            fused = weighted if fused is None else fused + weighted
        assert fused is not None  # there is at least one group
        return fused, inter_gates, intra_gates

    def decide(
        self,
        features_BF: torch.Tensor | None,
        inter: Gates | None = None,
        intra: Gates | None = None,
        gains_G: torch.Tensor | None = None,
    ) -> tuple[Gates, Gates]:
        """Decide all gates of the block without running an expert.

        Args:
            features_BF: Router features; unused where both gates are given.
            inter: Gate over groups, tensors ``[B, G]``; None for the router's decision.
            intra: Gates over sub-experts, tensors ``[G, B, E]``; None for the routers' decisions.
            gains_G: Factors of the groups' weights; see `Gates.scaled`.
        """
        inter_gates: Gates = self.router(features_BF) if inter is None else inter
        intra_gates = Gates.stack([group.router(features_BF) for group in self.groups]) if intra is None else intra
        return inter_gates if gains_G is None else inter_gates.scaled(gains_G), intra_gates

    def statistics(self, hidden_states: torch.Tensor, intra: Gates, piece: Piece) -> list[tuple[torch.Tensor, ...]]:
        """Return a piece's contribution to the global statistics that the experts of each group read."""
        return [group.statistics(hidden_states, gates, piece) for group, gates in zip(self.groups, intra.unbind())]
