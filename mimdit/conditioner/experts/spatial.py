"""Spatial attention: every position looks at the whole image."""

import torch
from torch import nn

from mimdit.conditioner.experts.attention import attend
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

    def forward(self, hidden_states: torch.Tensor, indices_BK: torch.Tensor, weights_BK: torch.Tensor) -> torch.Tensor:
        """See the contract in `mimdit.conditioner.experts`."""
        (batch, num_chosen), (height, width) = indices_BK.shape, hidden_states.shape[2:]
        pooled = nn.functional.adaptive_avg_pool2d(hidden_states, self.grid)
        query = self.query.fan_out(hidden_states, indices_BK).view(batch, num_chosen, -1, height * width)
        key, value = self.key_value.fan_out(pooled, indices_BK).view(batch, num_chosen, -1, self.grid**2).chunk(2, dim=2)
        attended = attend(query, key, value).reshape(batch, -1, height, width)
        return self.out.fan_in(attended, indices_BK, weights_BK)
