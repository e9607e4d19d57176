"""One MiM block: Inter-MoE and a feed-forward, each behind a norm and a shortcut."""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.inter_moe import InterMoE
from mimdit.routing.router import router_features
from mimdit.routing.routing import Gates


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of ``[B, C, H, W]`` at every position, with a learned scale; computed in fp32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim, 1, 1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise; the type of ``hidden_states`` is kept."""
        inverse = hidden_states.float().square().mean(dim=1, keepdim=True).add(1e-6).rsqrt()
        return hidden_states * inverse.to(hidden_states.dtype) * self.scale.to(hidden_states.dtype)


class FeedForward(nn.Module):
    """Gated feed-forward with a depth-wise 3x3 filter, so that detail has a path of its own (form of arXiv 2111.09881 §3.2).

    Args:
        dim: Channels C.
        expansion: Inner channels per channel, after the gate.
    """

    def __init__(self, dim: int, expansion: float = 1.0) -> None:
        super().__init__()
        inner = int(dim * expansion)
        self.into = nn.Conv2d(dim, 2 * inner, 1)
        self.local = nn.Conv2d(2 * inner, 2 * inner, 3, padding=1, groups=2 * inner)
        self.out = nn.Conv2d(inner, dim, 1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform ``[B, C, H, W]`` position by position, with its eight neighbours."""
        value, gate = self.local(self.into(hidden_states)).chunk(2, dim=1)
        return self.out(value * gate)


class MiMBlock(nn.Module):
    """``x + InterMoE(norm(x))``, then ``x + FFN(norm(x))`` (paper: the MoE-in-MoE block). The gates read ``x`` before the norm.

    Args:
        dim: Channels C.
        inter_moe: The fused expert groups.
        expansion: Width of the feed-forward; see `FeedForward`.
    """

    def __init__(self, dim: int, inter_moe: InterMoE, *, expansion: float = 1.0) -> None:
        super().__init__()
        self.norm1, self.inter_moe = ChannelNorm(dim), inter_moe
        self.norm2, self.feed_forward = ChannelNorm(dim), FeedForward(dim, expansion)

    def forward(
        self, hidden_states: torch.Tensor, inter: Gates | None = None, intra: Gates | None = None
    ) -> tuple[torch.Tensor, Gates, Gates, torch.Tensor]:
        """Transform ``[B, C, H, W]``; also return the gates and the features ``[B, 2C]`` that they read."""
        features_BF = router_features(hidden_states)
        fused, inter, intra = self.inter_moe(self.norm1(hidden_states), features_BF, inter, intra)
        hidden_states = hidden_states + fused
        return hidden_states + self.feed_forward(self.norm2(hidden_states)), inter, intra, features_BF
