"""Squeeze-and-excitation: a local filter whose channels are scaled by global channel means."""

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.piece import Piece
from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise, pick


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

    def statistics(self, images: torch.Tensor, rows: Rows, piece: Piece) -> tuple[torch.Tensor, ...]:
        """Return the piece's contribution to the means of the gated channels, ``[R, h]``."""
        return (piece.own(self._gated(images, rows)).float().sum(dim=(2, 3)) / (piece.down.whole * piece.across.whole),)

    def forward(
        self, images: torch.Tensor, rows: Rows, weights_BK: torch.Tensor, statistics: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Compute the weighted sum of the chosen sub-experts; see `mimdit.conditioner.experts`."""
        gated = self._gated(images, rows)
        pooled = (gated.mean(dim=(2, 3)) if statistics is None else statistics[0].to(gated.dtype))[..., None]
        squeeze, excite = (pick(stack, rows.indices_R).to(pooled.dtype) for stack in (self.squeeze_EOI, self.excite_EOI))
        excited = excite @ (squeeze @ pooled).relu()
        return self.out.fan_in(gated * (2 * excited.sigmoid()[..., None]), rows, weights_BK)

    def _gated(self, images: torch.Tensor, rows: Rows) -> torch.Tensor:
        value, gate = self.local(self.into.fan_out(images, rows), rows).chunk(2, dim=1)
        return value * gate
