"""Swin: attention inside windows, which are shifted in every second block."""

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts.spatial import attend
from mimdit.conditioner.piece import Piece
from mimdit.conditioner.stacked import StackedPointwise, pick


class SwinAttention(nn.Module):
    """Window or shifted-window self-attention with a relative position bias (paper: Swin expert; arXiv 2103.14030 §3.2).

    Height and width of the input must be multiples of the window, 8 positions.
    """

    window = 8
    position_NN: torch.Tensor

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        self.shift = self.window // 2 if shift else 0
        self.qkv = StackedPointwise(num_experts, dim, 3 * hidden)
        self.out = StackedPointwise(num_experts, hidden, dim)
        self.position_bias_EP = nn.Parameter(torch.randn(num_experts, (2 * self.window - 1) ** 2) * 0.02)
        self.register_buffer("position_NN", _relative_positions(self.window), persistent=False)

    def statistics(self, images: torch.Tensor, rows: Rows, piece: Piece) -> tuple[torch.Tensor, ...]:
        """Return no statistics: the attention is local to a window."""
        return ()

    def forward(
        self, images: torch.Tensor, rows: Rows, weights_BK: torch.Tensor, statistics: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Compute the weighted sum of the chosen sub-experts; see `mimdit.conditioner.experts`.

        Raises:
            ValueError: Height or width is not a multiple of the window.
        """
        height, width = images.shape[2:]
        if height % self.window or width % self.window:
            raise ValueError(f"{height}x{width} positions do not divide into windows of {self.window}; pad it as Restorer.restore does")
        qkv = self.qkv.fan_out(images, rows)
        if self.shift:
            qkv = qkv.roll((-self.shift, -self.shift), dims=(2, 3))
        down, across = height // self.window, width // self.window
        # [R, 3h, down * w, across * w] -> three of [R, down, across, h, w * w], with the channels last in memory
        windows = qkv.permute(0, 2, 3, 1).view(-1, down, self.window, across, self.window, qkv.shape[1]).transpose(2, 3)
        query, key, value = (part.mT for part in windows.flatten(3, 4).chunk(3, dim=4))
        bias = pick(self.position_bias_EP, rows.indices_R)[:, self.position_NN][:, None, None].to(query.dtype)
        if self.shift:
            bias = bias + _shift_mask(down, across, self.window, self.shift, query)
        attended = attend(query, key, value, bias).mT.unflatten(3, (self.window, self.window)).transpose(2, 3)
        attended = attended.reshape(-1, height, width, query.shape[3]).permute(0, 3, 1, 2)
        if self.shift:
            attended = attended.roll((self.shift, self.shift), dims=(2, 3))
        return self.out.fan_in(attended, rows, weights_BK)


def _relative_positions(window: int) -> torch.Tensor:
    """Return the index of the relative offset of every pair of positions in a window, ``[window^2, window^2]``."""
    grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = grid[:, :, None] - grid[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def _shift_mask(down: int, across: int, window: int, shift: int, like: torch.Tensor) -> torch.Tensor:
    """Return a large negative bias between positions that are neighbors only because of the cyclic shift, else 0.

    Shape ``[1, down, across, window^2, window^2]``, to be added to the scores of every row.
    """
    strips = []
    for count in (down, across):
        region = torch.zeros(count * window, device=like.device)
        region[-window:] = 1
        region[-shift:] = 2
        strips.append(region)
    region = strips[0][:, None] * 3 + strips[1][None, :]
    region = region.view(down, window, across, window).permute(0, 2, 1, 3).flatten(-2)
    apart = region[..., :, None] != region[..., None, :]
    return torch.zeros(apart.shape, device=like.device, dtype=like.dtype).masked_fill(apart, -1e4)[None]
