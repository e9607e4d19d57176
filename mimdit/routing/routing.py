"""The record of what every gate decided, returned by the conditioner and never kept as module state.

Shape legend: M MiM blocks, B images, G expert groups, E sub-experts per group (padded to the largest group), K chosen per gate,
F router features (mean and log-std of C channels: F = 2C).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True)
class Gates:
    """The decisions of one family of gates over N choices; all floating tensors are fp32.

    ``logits`` and ``probs`` ``[..., N]`` are before any selection (a masked choice has logit -inf and probability 0), ``indices``
    int64 ``[..., K]`` names the chosen ones in falling order of probability, ``weights`` ``[..., N]`` is what the outputs are
    multiplied with: exactly 0 where a choice was not taken. (ours)
    """

    logits: torch.Tensor
    probs: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor

    def map(self, function) -> Gates:
        """Apply ``function`` to every tensor."""
        return Gates(*(function(getattr(self, field.name)) for field in fields(self)))

    def scaled(self, factors: torch.Tensor) -> Gates:
        """With weights times ``factors [N]``, and their sum as before; logits and probabilities stay what the gate said.

        Where the factors leave nothing, because all that was chosen has the factor 0, the factors' own proportions are the weights.
        """
        factors = factors.to(self.weights)
        weights, total = self.weights * factors, self.weights.sum(dim=-1, keepdim=True)
        left = weights.sum(dim=-1, keepdim=True)
        return replace(self, weights=total * torch.where(left > 0, weights / left, factors / factors.sum()))

    @staticmethod
    def stack(gates: list[Gates]) -> Gates:
        """Stack records of equal shape along a new first axis."""
        return Gates(*(torch.stack([getattr(g, field.name) for g in gates]) for field in fields(gates[0])))


@dataclass(frozen=True)
class Routing:
    """Everything the conditioner's gates decided for a batch.

    ``inter`` holds the dense gates over groups, tensors ``[M, B, G]`` (indices ``[M, B, K]``, K = G where dense); ``intra`` the sparse
    gates over sub-experts, ``[M, G, B, E]`` (indices ``[M, G, B, K]``); ``features_MBF`` the detached statistics that the routers
    read; ``mask_GE`` is true where a sub-expert exists; ``groups`` names the G groups. (ours)
    """

    inter: Gates
    intra: Gates
    features_MBF: torch.Tensor
    mask_GE: torch.Tensor
    groups: tuple[str, ...]

    def map(self, function) -> Routing:
        """Apply ``function`` to every tensor that has a batch axis."""
        return Routing(self.inter.map(function), self.intra.map(function), function(self.features_MBF), self.mask_GE, self.groups)

    def detach(self) -> Routing:
        """The same record outside the autograd graph."""
        return self.map(torch.Tensor.detach)


def uniform_routing(routing: Routing) -> Routing:
    """Gates that know nothing: all groups alike and all their sub-experts alike."""
    return Routing(_uniform(routing.inter), _uniform(routing.intra), routing.features_MBF, routing.mask_GE, routing.groups)


def _uniform(gates: Gates) -> Gates:
    even = torch.full_like(gates.probs, 1 / gates.probs.shape[-1])
    everyone = torch.arange(even.shape[-1], device=even.device).expand(even.shape).contiguous()
    return Gates(torch.zeros_like(even), even, everyone, even)
