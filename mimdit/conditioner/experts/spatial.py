"""Spatial attention: every position attends to the whole image."""

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.piece import Piece
from mimdit.conditioner.stacked import StackedPointwise


class SpatialAttention(nn.Module):
    """Global attention from each position to a pooled grid of the image (paper: spatial attention expert).

    Keys and values are computed on an 8x8 average-pooled grid, so the cost is linear in the number of positions. The pooling is not in the
    paper.
    """

    grid = 8

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        self.query = StackedPointwise(num_experts, dim, hidden)
        self.key_value = StackedPointwise(num_experts, dim, 2 * hidden)
        self.out = StackedPointwise(num_experts, hidden, dim)

    def statistics(self, images: torch.Tensor, rows: Rows, piece: Piece) -> tuple[torch.Tensor, ...]:
        """Return the piece's contribution to the pooled grid ``[B, C, 8, 8]``; 8 divides height and width of the whole image."""
        total = piece.own(images).float()
        for axis, span in ((3, piece.across), (2, piece.down)):
            side = span.whole // self.grid
            cells = torch.arange(span.start, span.start + span.size, device=images.device) // side
            shape = [self.grid if index == axis else size for index, size in enumerate(total.shape)]
            total = total.new_zeros(shape).index_add_(axis, cells, total) / side
        return (total,)

    def forward(
        self, images: torch.Tensor, rows: Rows, weights_BK: torch.Tensor, statistics: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Compute the weighted sum of the chosen sub-experts; see `mimdit.conditioner.experts`."""
        pooled = nn.functional.adaptive_avg_pool2d(images, self.grid) if statistics is None else statistics[0].to(images.dtype)
        query = self.query.fan_out(images, rows).flatten(2)
        key, value = self.key_value.fan_out(pooled, rows).flatten(2).chunk(2, dim=1)
        attended = attend(query, key, value)
        return self.out.fan_in(attended.unflatten(2, images.shape[2:]), rows, weights_BK)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the last dimension; in compiled blocks from its parts, in fp32.

    Compiled for a CPU, the backward pass of PyTorch's own gives NaN for scores in bf16 (seen in 2.14).
    """
    if not torch.compiler.is_compiling():
        return scores.softmax(dim=-1)
    exponentials = (scores.float() - scores.float().amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``softmax(query^T key / sqrt(d) + bias) value`` for channel-major queries, keys and values.

    The score matrix is explicit: for at most a few hundred keys it is cheaper than a fused kernel. Under autocast the softmax is in fp32.

    Args:
        query: Queries ``[..., d, N]``.
        key: Keys ``[..., d, S]``.
        value: Values ``[..., d, S]``.
        bias: Added to the scores; broadcasts to ``[..., N, S]``.

    Returns:
        The attended values ``[..., d, N]``.
    """
    scores = (query * query.shape[-2] ** -0.5).transpose(-1, -2) @ key
    if bias is not None:
        scores = scores + bias
    return value @ _softmax(scores).to(value.dtype).transpose(-1, -2)
