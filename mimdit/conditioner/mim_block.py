"""MiM block: Inter-MoE and a feed-forward, each with a norm before it and a shortcut around it."""

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
        """Normalize; the type of ``hidden_states`` is kept."""
        inverse = hidden_states.float().square().mean(dim=1, keepdim=True).add(1e-6).rsqrt()
        return hidden_states * inverse.to(hidden_states.dtype) * self.scale.to(hidden_states.dtype)


class FeedForward(nn.Module):
    """Gated feed-forward with a depth-wise 3x3 filter, which gives detail a path of its own (form of arXiv 2111.09881 §3.2).

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
        """Transform ``[B, C, H, W]``; a position depends on itself and its eight neighbors."""
        value, gate = (self._half(hidden_states, half) for half in (slice(None, self.inner), slice(self.inner, None)))
        return _pointwise(value * gate, self.out.weight, self.out.bias)

    def _half(self, hidden_states: torch.Tensor, half: slice) -> torch.Tensor:
        """Compute value or gate; splitting one tensor of both would cost a concatenation in the backward pass."""
        into, local = self.into, self.local
        assert into.bias is not None and local.bias is not None  # both were made with one
        inner = _pointwise(hidden_states, into.weight[half], into.bias[half])
        return nn.functional.conv2d(inner, local.weight[half], local.bias[half], padding=1, groups=self.inner)


def _pointwise(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Apply a 1x1 convolution as a linear layer on tokens; channels-last memory needs no copy for that."""
    return nn.functional.linear(hidden_states.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class ConvFeedForward(nn.Module):
    """Two dense 3x3 filters around a ReLU. Not in the paper.

    Per multiplication it is several times as fast on a CPU as the pointwise and depth-wise filters of `FeedForward`: dense filters are
    bound by arithmetic, not by memory.

    Args:
        dim: Channels C.
        expansion: Inner channels per channel.
    """

    def __init__(self, dim: int, expansion: float = 1.0) -> None:
        super().__init__()
        inner = int(dim * expansion)
        self.into = nn.Conv2d(dim, inner, 3, padding=1)
        self.out = nn.Conv2d(inner, dim, 3, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform ``[B, C, H, W]``; each position depends on positions at most two away."""
        return self.out(self.into(hidden_states).relu())


FEED_FORWARDS = {"gated": FeedForward, "conv": ConvFeedForward}
"""Feed-forwards of a MiM block by name."""


class CoarseGrid(nn.Module):
    """Coarser and wider grid for the experts, with its own feed-forward. Not in the paper.

    The ``stride x stride`` fine positions under a coarse one are concatenated and mixed, so that no detail is averaged away, and expanded
    again on the way back. On the coarse grid the experts cost less per channel and reach farther.

    Args:
        dim: Channels C of the fine grid.
        coarse_dim: Channels D of the coarse grid.
        stride: Fine positions per coarse one, in each direction.
        expansion: Width of the coarse feed-forward, in units of ``coarse_dim``.
    """

    def __init__(self, dim: int, coarse_dim: int, stride: int, *, expansion: float = 2.0) -> None:
        super().__init__()
        self.down = nn.Conv2d(dim, coarse_dim, stride, stride=stride)
        self.norm, self.feed_forward = ChannelNorm(coarse_dim), FeedForward(coarse_dim, expansion)
        self.up = nn.Conv2d(coarse_dim, dim * stride**2, 1)
        self.stride = stride

    def back(self, coarse: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
        """Add the experts' output ``fused [B, D, H/s, W/s]`` and the feed-forward to ``coarse``; return ``[B, C, H, W]``."""
        coarse = coarse + fused
        coarse = coarse + self.feed_forward(self.norm(coarse))
        return nn.functional.pixel_shuffle(self.up(coarse), self.stride)


class MiMBlock(nn.Module):
    """MoE-in-MoE (MiM) block: ``x + InterMoE(norm(x))``, then ``x + FFN(norm(x))`` (paper, section 3).

    The gates read statistics of ``x`` before the norm. Those statistics, the form of the feed-forward and a separate grid for the experts
    are not in the paper.

    Args:
        dim: Channels C.
        inter_moe: Inter-MoE for ``moe_dim`` channels.
        expansion: Width of the feed-forward, in units of ``dim``.
        moe_stride: Positions of ``x`` per position of the experts' grid, in each direction. Without ``moe_dim`` the experts work on
            averages and their output is interpolated: at 2 they cost a quarter, and only the feed-forward works on full detail.
        moe_dim: Channels of the experts' grid; None for ``dim``. If given, a `CoarseGrid` connects the grids.
        feed_forward: ``gated`` (`FeedForward`) or ``conv`` (`ConvFeedForward`).

    Raises:
        ValueError: ``feed_forward`` is unknown.
    """

    def __init__(
        self,
        dim: int,
        inter_moe: InterMoE,
        *,
        expansion: float = 1.0,
        moe_stride: int = 1,
        moe_dim: int | None = None,
        feed_forward: str = "gated",
    ) -> None:
        super().__init__()
        if feed_forward not in FEED_FORWARDS:
            raise ValueError(f"feed_forward {feed_forward!r} is unknown; choose one of {', '.join(FEED_FORWARDS)}")
        self.moe_stride = moe_stride
        self.norm1, self.inter_moe = ChannelNorm(dim), inter_moe
        self.coarse = None if moe_dim is None else CoarseGrid(dim, moe_dim, moe_stride)
        self.norm2, self.feed_forward = ChannelNorm(dim), FEED_FORWARDS[feed_forward](dim, expansion)

    def forward(
        self,
        hidden_states: torch.Tensor,
        inter: Gates | None = None,
        intra: Gates | None = None,
        gains_G: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Gates, Gates, torch.Tensor]:
        """Transform ``[B, C, H, W]``.

        Args:
            hidden_states: Hidden states ``[B, C, H, W]``.
            inter: Gate over groups; None for the router's decision. This and the next two arguments are as in `InterMoE.decide`.
            intra: Gates over sub-experts; None for the routers' decisions.
            gains_G: Factors of the groups' weights.

        Returns:
            The output ``[B, C, H, W]``, inter and intra gates, and the router features ``[B, 2C]``, computed at full resolution.
        """
        features_BF = router_features(hidden_states)
        coarse = self._for_experts(hidden_states)
        fused, inter_gates, intra_gates = self.inter_moe(coarse, features_BF, inter, intra, gains_G)
        return self._add(hidden_states, coarse, fused), inter_gates, intra_gates, features_BF

    def shard_units(self) -> list[list[nn.Module]]:
        """Return the modules that a sharded strategy gathers together: experts and feed-forward, and the coarse grid's feed-forward."""
        experts: list[nn.Module] = [group.experts for group in self.inter_moe.groups]
        coarse: list[list[nn.Module]] = [] if self.coarse is None else [[self.coarse.feed_forward]]
        return [*coarse, [*experts, self.feed_forward]]

    def statistics(self, hidden_states: torch.Tensor, intra: Gates, piece: Piece) -> list[tuple[torch.Tensor, ...]]:
        """Return a piece's contribution to the global statistics that the experts of each group read, given the gates."""
        return self.inter_moe.statistics(self._for_experts(hidden_states), intra, piece.coarser(self.moe_stride))

    def transform(
        self, hidden_states: torch.Tensor, inter: Gates, intra: Gates, statistics: list[tuple[torch.Tensor, ...]]
    ) -> torch.Tensor:
        """Apply `forward` to a piece of an image, with gates and statistics of the whole image."""
        coarse = self._for_experts(hidden_states)
        return self._add(hidden_states, coarse, self.inter_moe(coarse, None, inter, intra, statistics=statistics)[0])

    def _for_experts(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(hidden_states)
        if self.coarse is not None:
            return self.coarse.down(normed)
        return nn.functional.avg_pool2d(normed, self.moe_stride) if self.moe_stride > 1 else normed

    def _add(self, hidden_states: torch.Tensor, coarse: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
        if self.coarse is not None:
            fused = self.coarse.back(coarse, fused)
        elif self.moe_stride > 1:
            fused = nn.functional.interpolate(fused, scale_factor=self.moe_stride, mode="bilinear", align_corners=False)
        hidden_states = hidden_states + fused
        return hidden_states + self.feed_forward(self.norm2(hidden_states))
