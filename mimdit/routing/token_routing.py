"""Routing of the tokens inside the transformer: its record, and the losses that keep its experts in use. Not in the paper.

The load is that of the tokens of all ranks (arXiv 2501.11873). Where micro-batches are accumulated it is that of one micro-batch: exact
losses of the whole window would need the hidden states of all its tokens, and a micro-batch has thousands of tokens, where it has few
images. Equal numbers of tokens on every rank are assumed, as the training stream delivers them.

Shape legend: L blocks with experts, B images, N tokens per image, T = B * N tokens, E experts, K chosen per token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from mimdit.routing.balance import global_mean, switch_loss


@dataclass(frozen=True)
class TokenRouting:
    """Decisions of the experts' routers in one forward pass of the transformer, tokens image by image.

    Attributes:
        logits_LTE: Logits in fp32; their gradient reaches the routers only.
        indices_LTK: Chosen experts.
        sigma_B: Noise levels of the images, in 0..1.
        blocks: Indices of the L transformer blocks.
    """

    logits_LTE: torch.Tensor
    indices_LTK: torch.Tensor
    sigma_B: torch.Tensor
    blocks: tuple[int, ...]

    def detach(self) -> TokenRouting:
        """Return the record detached from the autograd graph."""
        return replace(self, logits_LTE=self.logits_LTE.detach())

    def choices_LTE(self) -> torch.Tensor:
        """Return 1 where an expert is chosen and 0 elsewhere."""
        return torch.zeros_like(self.logits_LTE).scatter_(-1, self.indices_LTK, 1.0)


OnTokens = Callable[[TokenRouting], None]
"""Receiver of the routing of a forward pass."""


def token_outputs(routings: Sequence[TokenRouting]) -> dict[str, TokenRouting]:
    """Return the entry ``token_routing`` of a training step's outputs, for callbacks: the step's routing, if there is one."""
    return {"token_routing": routings[0].detach()} if routings else {}


def token_losses(routing: TokenRouting, *, balance: float, z: float) -> dict[str, torch.Tensor]:
    """Return the weighted losses of the token routers by name, each a scalar in fp32; one with the weight 0 is left out at no cost.

    Args:
        routing: The record of this rank's tokens.
        balance: Weight of the Switch loss ``E * sum_i f_i P_i`` (arXiv 2101.03961 eq. 4): f is the share of all ranks' choices that
            expert i gets, P its mean probability. 1 at uniform routing; averaged over blocks.
        z: Weight of the router z-loss ``mean(logsumexp(logits)^2)`` (arXiv 2202.08906 eq. 5).
    """
    losses = {}
    if balance:
        load_LE = routing.choices_LTE().detach().mean(dim=1) / routing.indices_LTK.shape[-1]
        importance_LE = routing.logits_LTE.softmax(dim=-1).mean(dim=1)
        load_LE = global_mean({"load": load_LE})["load"]
        losses["token_balance"] = balance * switch_loss(load_LE, importance_LE)
    if z:
        losses["token_z"] = z * routing.logits_LTE.logsumexp(dim=-1).square().mean()
    return losses
