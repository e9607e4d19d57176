"""One MiM block: Inter-MoE and a feed-forward, each behind a norm and a shortcut."""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.inter_moe import InterMoE
from mimdit.conditioner.piece import Piece
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
        self.inner = int(dim * expansion)
        self.into = nn.Conv2d(dim, 2 * self.inner, 1)
        self.local = nn.Conv2d(2 * self.inner, 2 * self.inner, 3, padding=1, groups=2 * self.inner)
        self.out = nn.Conv2d(self.inner, dim, 1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform ``[B, C, H, W]`` position by position, with its eight neighbours."""
        value, gate = (self._half(hidden_states, half) for half in (slice(None, self.inner), slice(self.inner, None)))
        return _pointwise(value * gate, self.out.weight, self.out.bias)

    def _half(self, hidden_states: torch.Tensor, half: slice) -> torch.Tensor:
        """Value or gate alone: splitting one tensor of both would cost a concatenation in the backward pass."""
        inner = _pointwise(hidden_states, self.into.weight[half], self.into.bias[half])
        return nn.functional.conv2d(inner, self.local.weight[half], self.local.bias[half], padding=1, groups=self.inner)


def _pointwise(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution as a product of tokens, which channels-last memory holds already."""
    return nn.functional.linear(hidden_states.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class MiMBlock(nn.Module):
    """``x + InterMoE(norm(x))``, then ``x + FFN(norm(x))`` (paper: the MoE-in-MoE block). The gates read ``x`` before the norm.

    Args:
        dim: Channels C.
        inter_moe: The fused expert groups.
        expansion: Width of the feed-forward; see `FeedForward`.
        moe_stride: The experts see means over this many positions in each direction, and what they say is interpolated back. (ours) At 2
            they cost a quarter and reach twice as far, and detail is the feed-forward's part alone.
    """

    def __init__(self, dim: int, inter_moe: InterMoE, *, expansion: float = 1.0, moe_stride: int = 1) -> None:
        super().__init__()
        self.moe_stride = moe_stride
        self.norm1, self.inter_moe = ChannelNorm(dim), inter_moe
        self.norm2, self.feed_forward = ChannelNorm(dim), FeedForward(dim, expansion)

    def forward(
        self, hidden_states: torch.Tensor, inter: Gates | None = None, intra: Gates | None = None
    ) -> tuple[torch.Tensor, Gates, Gates, torch.Tensor]:
        """Transform ``[B, C, H, W]``; also return the gates and the features ``[B, 2C]`` that they read, at full resolution."""
        features_BF = router_features(hidden_states)
        fused, inter, intra = self.inter_moe(self._for_experts(hidden_states), features_BF, inter, intra)
        return self._add(hidden_states, fused), inter, intra, features_BF

    def statistics(self, hidden_states: torch.Tensor, intra: Gates, piece: Piece) -> list[tuple[torch.Tensor, ...]]:
        """The piece's share of what the experts of each group read of the whole image, once the gates are known."""
        return self.inter_moe.statistics(self._for_experts(hidden_states), intra, piece.coarser(self.moe_stride))

    def transform(
        self, hidden_states: torch.Tensor, inter: Gates, intra: Gates, statistics: list[tuple[torch.Tensor, ...]]
    ) -> torch.Tensor:
        """`forward` for a piece of an image, by the gates and statistics of the whole."""
        return self._add(hidden_states, self.inter_moe(self._for_experts(hidden_states), None, inter, intra, statistics)[0])

    def _for_experts(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(hidden_states)
        return nn.functional.avg_pool2d(normed, self.moe_stride) if self.moe_stride > 1 else normed

    def _add(self, hidden_states: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
        if self.moe_stride > 1:
            fused = nn.functional.interpolate(fused, scale_factor=self.moe_stride, mode="bilinear", align_corners=False)
        hidden_states = hidden_states + fused
        return hidden_states + self.feed_forward(self.norm2(hidden_states))
