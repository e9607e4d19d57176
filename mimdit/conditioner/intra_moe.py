"""Intra-MoE, the fine level: inside one group, each image is processed by a few of the group's sub-experts.

Shape legend: B images, C channels, F router features, E sub-experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.dispatch import DISPATCHES, Rows, is_grouped
from mimdit.conditioner.experts import KINDS
from mimdit.conditioner.piece import Piece
from mimdit.routing.router import LINEAR, RouterOptions
from mimdit.routing.routing import Gates

MODES = ("sparse", "dense", "none")


class IntraMoE(nn.Module):
    """Group of sub-experts of one kind with a sparse top-k gate (paper, section 3: Intra-MoE).

    The paper gives neither E nor k. The modes ``dense`` and ``none`` are for ablations. Not in the paper: the features that the gate reads.

    Args:
        kind: ``spatial``, ``channel``, ``swin`` or ``se``.
        dim: Channels C of the hidden states.
        hidden: Inner channels of one sub-expert.
        num_experts: Number E of sub-experts.
        top_k: Sub-experts per image, 1..E.
        mode: ``sparse`` (the paper), ``dense`` (all sub-experts, softmax weights) or ``none`` (one expert, as wide as the ``top_k``
            sub-experts together).
        shift: If true, shift the windows of Swin experts.
        dispatch: Execution of the sub-experts: ``gather``, ``grouped`` or ``auto``; see `mimdit.conditioner.dispatch`.
        num_features: Length F of the router features; None for mean and log-std of ``dim`` channels.
        router: Kind of the router.

    Raises:
        ValueError: ``kind``, ``mode`` or ``dispatch`` is unknown, or ``top_k`` is out of range.
    """

    def __init__(
        self, kind: str, dim: int, hidden: int, num_experts: int, *, top_k: int = 2, mode: str = "sparse", shift: bool = False,
        dispatch: str = "auto", num_features: int | None = None, router: RouterOptions = LINEAR,
    ) -> None:  # fmt: skip
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"expert kind {kind!r} is unknown; choose from {', '.join(KINDS)}")
        if mode not in MODES:
            raise ValueError(f"intra mode {mode!r} is unknown; choose one of {', '.join(MODES)}")
        if dispatch not in DISPATCHES:
            raise ValueError(f"dispatch {dispatch!r} is unknown; choose one of {', '.join(DISPATCHES)}")
        if mode == "sparse" and not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k={top_k} of {num_experts} {kind} sub-experts cannot be chosen; set top_k to 1..{num_experts}")
        if mode == "none":
            num_experts, hidden, top_k = 1, hidden * top_k, 1
        gate = "dense" if mode == "dense" or num_experts == 1 else "sparse"
        self.router = router.make(2 * dim if num_features is None else num_features, num_experts, mode=gate, top_k=top_k)
        if num_experts == 1:
            self.router.requires_grad_(False)
        self.experts = KINDS[kind](dim, hidden, num_experts, shift=shift)
        self.num_experts, self.dispatch, self.channels = num_experts, dispatch, (dim, hidden)

    @property
    def num_idle_parameters(self) -> int:
        """Number of parameters of the sub-experts that are not chosen for an image."""
        stored = sum(parameter.numel() for parameter in self.experts.parameters())
        return stored * (self.num_experts - self.router.top_k) // self.num_experts

    def forward(
        self,
        hidden_states: torch.Tensor,
        features_BF: torch.Tensor | None,
        gates: Gates | None = None,
        statistics: tuple[torch.Tensor, ...] | None = None,
    ) -> tuple[torch.Tensor, Gates]:
        """Apply the chosen sub-experts to ``hidden_states [B, C, H, W]``; return their weighted sum and the gates.

        Args:
            hidden_states: Hidden states, or a piece of them.
            features_BF: Router features; unused where ``gates`` are given.
            gates: Gates to use instead of the router's decision.
            statistics: Replacement of the global statistics that the experts would compute from ``hidden_states``.
        """
        decided: Gates = self.router(features_BF) if gates is None else gates
        weights_BK = decided.weights.gather(-1, decided.indices)
        return self.experts(hidden_states, self._rows(hidden_states, decided), weights_BK, statistics), decided

    def statistics(self, hidden_states: torch.Tensor, gates: Gates, piece: Piece) -> tuple[torch.Tensor, ...]:
        """Return a piece's contribution to the global statistics that the chosen experts read."""
        return self.experts.statistics(hidden_states, self._rows(hidden_states, gates), piece)

    def _rows(self, hidden_states: torch.Tensor, gates: Gates) -> Rows:
        grouped = is_grouped(self.dispatch, hidden_states, self.channels)
        return Rows.sort(gates.indices, self.num_experts) if grouped else Rows.in_order(gates.indices)
