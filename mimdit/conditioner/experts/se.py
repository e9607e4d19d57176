"""Squeeze-and-excitation: a local filter whose channels are scaled by what the whole image looks like."""

import torch
from torch import nn

from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise


class SqueezeExcitation(nn.Module):
    """Gated depth-wise filter with squeeze-and-excitation (paper: SE expert; arXiv 1709.01507 §3, gate form of arXiv 2204.04676)."""

    reduction = 4

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        squeezed = max(4, hidden // self.reduction)
        self.into = StackedPointwise(num_experts, dim, 2 * hidden)
        self.local = StackedDepthwise(num_experts, 2 * hidden)
        self.squeeze_EOI = nn.Parameter(torch.empty(num_experts, squeezed, hidden).uniform_(-1, 1) * hidden**-0.5)
        self.excite_EOI = nn.Parameter(torch.empty(num_experts, hidden, squeezed).uniform_(-1, 1) * squeezed**-0.5)
        self.out = StackedPointwise(num_experts, hidden, dim)

    def forward(self, hidden_states: torch.Tensor, indices_BK: torch.Tensor, weights_BK: torch.Tensor) -> torch.Tensor:
        """See the contract in `mimdit.conditioner.experts`."""
        (batch, num_chosen), (height, width) = indices_BK.shape, hidden_states.shape[2:]
        filtered = self.local(self.into.fan_out(hidden_states, indices_BK), indices_BK)
        value, gate = filtered.view(batch, num_chosen, -1, height, width).chunk(2, dim=2)
        gated = value * gate
        pooled = gated.mean(dim=(3, 4))[..., None]
        excited = self.excite_EOI[indices_BK].to(pooled.dtype) @ (self.squeeze_EOI[indices_BK].to(pooled.dtype) @ pooled).relu()
        scaled = gated * 2 * excited.sigmoid()[..., None]
        return self.out.fan_in(scaled.flatten(1, 2), indices_BK, weights_BK)
