"""Spatial attention: every position looks at the whole image."""

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts.attention import attend
from mimdit.conditioner.piece import Piece
from mimdit.conditioner.stacked import StackedPointwise


class SpatialAttention(nn.Module):
    """Global attention from each position to a pooled grid of the image (paper: spatial attention expert; the pooling is ours).

    Keys and values come from an 8x8 average-pooled grid, so the cost is linear in the number of positions.
    """

    grid = 8

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        self.query = StackedPointwise(num_experts, dim, hidden)
        self.key_value = StackedPointwise(num_experts, dim, 2 * hidden)
        self.out = StackedPointwise(num_experts, hidden, dim)

    def statistics(self, images: torch.Tensor, rows: Rows, piece: Piece) -> tuple[torch.Tensor, ...]:
        """The pooled grid ``[B, C, 8, 8]``; the grid divides the height and width of the whole."""
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
        """See the contract in `mimdit.conditioner.experts`."""
        pooled = nn.functional.adaptive_avg_pool2d(images, self.grid) if statistics is None else statistics[0].to(images.dtype)
        query = self.query.fan_out(images, rows).flatten(2)
        key, value = self.key_value.fan_out(pooled, rows).flatten(2).chunk(2, dim=1)
        attended = attend(query, key, value)
        return self.out.fan_in(attended.unflatten(2, images.shape[2:]), rows, weights_BK)
