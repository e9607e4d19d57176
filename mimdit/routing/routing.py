"""Record of the decisions of all gates; the conditioner returns it, and no module keeps it as state.

Shape legend: M MiM blocks, B images, G expert groups, E sub-experts per group, K chosen per gate,
F router features (mean and log-std of C channels: F = 2C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True)
class Gates:
    """Decisions of gates over N choices; all floating tensors are fp32.

    Attributes:
        logits: Logits ``[..., N]`` before any selection.
        probs: Probabilities ``[..., N]`` before any selection.
        indices: Selected choices, int64 ``[..., K]``, in decreasing order of probability.
        weights: Factors ``[..., N]`` of the outputs; exactly 0 for choices that are not selected.
    """

    logits: torch.Tensor
    probs: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Gates:
        """Apply ``function`` to every tensor."""
        return Gates(*(function(getattr(self, field.name)) for field in fields(self)))

    def scaled(self, factors: torch.Tensor) -> Gates:
        """Return gates with weights times ``factors [N]``, rescaled to their previous sum; logits and probabilities do not change.

        If every selected choice has the factor 0, the weights are proportional to the factors.
        """
        factors = factors.to(self.weights)
        weights, total = self.weights * factors, self.weights.sum(dim=-1, keepdim=True)
        left = weights.sum(dim=-1, keepdim=True)
        return replace(self, weights=total * torch.where(left > 0, weights / left, factors / factors.sum()))

    @staticmethod
    def stack(gates: Sequence[Gates]) -> Gates:
        """Stack records of equal shape along a new first axis."""
        return Gates(*(torch.stack([getattr(g, field.name) for g in gates]) for field in fields(gates[0])))

    def unbind(self) -> list[Gates]:
        """Undo `stack`: one record per entry of the first axis."""
        return [Gates(*tensors) for tensors in zip(*(getattr(self, field.name).unbind() for field in fields(self)))]


@dataclass(frozen=True)
class Routing:
    """Decisions of all gates of the conditioner for a batch.

    Attributes:
        inter: Gates over groups (Inter-MoE), tensors ``[M, B, G]``; indices ``[M, B, K]``, K = G where the gate is dense.
        intra: Gates over sub-experts (Intra-MoE), tensors ``[M, G, B, E]``; indices ``[M, G, B, K]``.
        features_MBF: Detached router features.
        groups: Names of the G expert groups.
    """

    inter: Gates
    intra: Gates
    features_MBF: torch.Tensor
    groups: tuple[str, ...]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Routing:
        """Apply ``function`` to every tensor that has a batch axis."""
        return Routing(self.inter.map(function), self.intra.map(function), function(self.features_MBF), self.groups)

    def detach(self) -> Routing:
        """Return the record detached from the autograd graph."""
        return self.map(torch.Tensor.detach)


def uniform_routing(routing: Routing) -> Routing:
    """Return gates with equal weights for all groups and for all of their sub-experts."""
    return Routing(_uniform(routing.inter), _uniform(routing.intra), routing.features_MBF, routing.groups)


def _uniform(gates: Gates) -> Gates:
    even = torch.full_like(gates.probs, 1 / gates.probs.shape[-1])
    everyone = torch.arange(even.shape[-1], device=even.device).expand(even.shape).contiguous()
    return Gates(torch.zeros_like(even), even, everyone, even)
