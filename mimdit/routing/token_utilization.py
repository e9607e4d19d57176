"""Utilization of the experts inside the transformer: counts of tokens by block, expert and noise level. Not in the paper.

Shape legend: L blocks, S noise-level bins, E experts, B images, N tokens per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from mimdit.routing.token_routing import TokenRouting
from mimdit.routing.utilization import UNUSED_SHARE, entropy, normalized_mutual_information, relative_entropy


class TokenCounts:
    """Sums over a window of training steps, in plain tensors on the routing's device; not buffers, which DDP overwrites with rank 0's.

    ``update`` neither synchronizes with the device nor copies to the host.

    Args:
        bins: Number S of bins of equal width that divide sigma's range 0..1.

    Raises:
        ValueError: ``bins`` is below 1.
    """

    def __init__(self, bins: int = 4) -> None:
        if bins < 1:
            raise ValueError(f"bins={bins} of sigma must be at least 1")
        self.bins = bins
        self.blocks: tuple[int, ...] = ()
        self.hits_SLE: torch.Tensor | None = None
        self.tokens_S: torch.Tensor | None = None

    @torch.no_grad()
    def update(self, routing: TokenRouting) -> None:
        """Add the tokens of a micro-batch."""
        images = len(routing.sigma_B)
        hits_BLE = routing.choices_LTE().unflatten(1, (images, -1)).sum(dim=2).double().transpose(0, 1)
        if self.hits_SLE is None or self.tokens_S is None:
            self.hits_SLE, self.blocks = hits_BLE.new_zeros(self.bins, *hits_BLE.shape[1:]), routing.blocks
            self.tokens_S = hits_BLE.new_zeros(self.bins)
        bins_B = (routing.sigma_B * self.bins).long().clamp(0, self.bins - 1)
        self.hits_SLE.index_add_(0, bins_B, hits_BLE)
        self.tokens_S.index_add_(0, bins_B, hits_BLE.new_full((images,), routing.indices_LTK.shape[1] // images))

    def all_reduce(self) -> None:
        """Sum the window over all ranks, in one collective that every rank must join; a no-op without torch.distributed."""
        if self.hits_SLE is None or self.tokens_S is None or not (dist.is_available() and dist.is_initialized()):
            return
        flat = torch.cat([self.hits_SLE.flatten(), self.tokens_S])
        dist.all_reduce(flat)
        hits, self.tokens_S = flat.split([self.hits_SLE.numel(), self.bins])
        self.hits_SLE = hits.view_as(self.hits_SLE)

    def reset(self) -> None:
        """Begin a new window."""
        self.hits_SLE = self.tokens_S = None


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of a window of counts; all tensors fp64 on the CPU.

    - ``blocks``: indices of the L blocks in the transformer.
    - ``load_LE``: share of a block's choices that an expert gets; sums to 1 over E.
    - ``load_SLE``: the same in each bin of sigma; NaN in a bin without tokens.
    - ``tokens_S``: tokens per bin.
    - ``max_violation_L``, ``max_violation_SL``: max load times E, minus 1; 0 when balanced (MaxVio, arXiv 2408.15664 eq. 4).
    - ``load_entropy_L``: H(load) / log E, 1 when balanced; 1 for a single expert.
    - ``unused_L``: number of experts with less than a tenth of the uniform load.
    - ``information_L``: normalized mutual information of bin and expert: 0 where experts do not depend on sigma, 1 where sigma decides.
    """

    blocks: tuple[int, ...]
    load_LE: torch.Tensor
    load_SLE: torch.Tensor
    tokens_S: torch.Tensor
    max_violation_L: torch.Tensor
    max_violation_SL: torch.Tensor
    load_entropy_L: torch.Tensor
    unused_L: torch.Tensor
    information_L: torch.Tensor


def token_utilization(counts: TokenCounts) -> TokenStatistics:
    """Compute the statistics of a window; over several ranks, reduce it first.

    Raises:
        ValueError: The window is empty.
    """
    if counts.hits_SLE is None or counts.tokens_S is None:
        raise ValueError("the window of token counts is empty: update it with at least one micro-batch first")
    hits_SLE, tokens_S = counts.hits_SLE.cpu(), counts.tokens_S.cpu()
    num_experts, seen = hits_SLE.shape[-1], tokens_S > 0
    hits_LE = hits_SLE.sum(dim=0)
    load_LE = hits_LE / hits_LE.sum(dim=-1, keepdim=True)
    load_SLE = hits_SLE / hits_SLE.sum(dim=-1, keepdim=True)  # 0 / 0 in a bin without tokens
    return TokenStatistics(
        blocks=counts.blocks,
        load_LE=load_LE,
        load_SLE=load_SLE,
        tokens_S=tokens_S,
        max_violation_L=load_LE.amax(dim=-1) * num_experts - 1,
        max_violation_SL=load_SLE.amax(dim=-1) * num_experts - 1,
        load_entropy_L=relative_entropy(entropy(load_LE), num_experts, single=1.0),
        unused_L=(load_LE < UNUSED_SHARE / num_experts).sum(dim=-1),
        information_L=normalized_mutual_information(hits_SLE[seen].transpose(0, 1), tokens_S[seen])[0],
    )
