"""Channel attention: every channel attends to every other, over the whole image."""

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.piece import Piece
from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise, pick


class ChannelAttention(nn.Module):
    """Transposed attention across channels (paper: channel attention expert; form of Restormer's MDTA, arXiv 2111.09881 eq. 1)."""

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        self.qkv = StackedPointwise(num_experts, dim, 3 * hidden)
        self.local = StackedDepthwise(num_experts, 3 * hidden)
        self.temperature_E = nn.Parameter(torch.ones(num_experts))
        self.out = StackedPointwise(num_experts, hidden, dim)

    def statistics(self, images: torch.Tensor, rows: Rows, piece: Piece) -> tuple[torch.Tensor, ...]:
        """Return the squares of queries and keys ``[R, h]`` and their products ``[R, h, h]``, summed over the piece's own positions."""
        query, key, _ = _tokens(piece.own(self.local(self.qkv.fan_out(images, rows), rows)))
        return _products(query, key)

    def forward(
        self, images: torch.Tensor, rows: Rows, weights_BK: torch.Tensor, statistics: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Compute the weighted sum of the chosen sub-experts; see `mimdit.conditioner.experts`."""
        query, key, value = _tokens(self.local(self.qkv.fan_out(images, rows), rows))
        # Normalizing the product equals normalizing the channels, with one pass fewer over the image.
        square_q, square_k, product = _products(query, key) if statistics is None else statistics
        norm_q, norm_k = (square.clamp_min(1e-6).rsqrt() for square in (square_q, square_k))
        similarity = product * norm_q[:, :, None] * norm_k[:, None, :]
        attention = (similarity * pick(self.temperature_E, rows.indices_R)[:, None, None]).softmax(dim=-1)
        attended = value @ attention.to(value.dtype).mT
        return self.out.fan_in(attended.mT.unflatten(2, images.shape[2:]), rows, weights_BK)


def _tokens(qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split ``[R, 3h, H, W]`` into three of ``[R, N, h]``, along the axis that is last in memory, to keep gradients contiguous."""
    return qkv.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, dim=2)


def _products(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    square_q, square_k = (tokens.float().square().sum(dim=1) for tokens in (query, key))
    return square_q, square_k, (query.mT @ key).float()
