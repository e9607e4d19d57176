"""Channel attention: every channel looks at every other, over the whole image."""

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise, pick


class ChannelAttention(nn.Module):
    """Transposed attention across channels (paper: channel attention expert; form of Restormer's MDTA, arXiv 2111.09881 eq. 1)."""

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        self.qkv = StackedPointwise(num_experts, dim, 3 * hidden)
        self.local = StackedDepthwise(num_experts, 3 * hidden)
        self.temperature_E = nn.Parameter(torch.ones(num_experts))
        self.out = StackedPointwise(num_experts, hidden, dim)

    def forward(self, images: torch.Tensor, rows: Rows, weights_BK: torch.Tensor) -> torch.Tensor:
        """See the contract in `mimdit.conditioner.experts`."""
        qkv = self.local(self.qkv.fan_out(images, rows), rows)
        # [R, N, h] each: split along what is last in memory, so that their gradients lie together as they come.
        query, key, value = qkv.permute(0, 2, 3, 1).flatten(1, 2).chunk(3, dim=2)
        # The product over positions is normalised after the fact: the same as normalised channels, with one pass less over the image.
        norm_q, norm_k = (tokens.float().square().sum(dim=1).clamp_min(1e-6).rsqrt() for tokens in (query, key))
        similarity = (query.mT @ key).float() * norm_q[:, :, None] * norm_k[:, None, :]
        attention = (similarity * pick(self.temperature_E, rows.indices_R)[:, None, None]).softmax(dim=-1)
        attended = value @ attention.to(value.dtype).mT
        return self.out.fan_in(attended.mT.unflatten(2, images.shape[2:]), rows, weights_BK)
