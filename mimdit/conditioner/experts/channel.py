"""Channel attention: every channel looks at every other, over the whole image."""

import torch
from torch import nn

from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise


class ChannelAttention(nn.Module):
    """Transposed attention across channels (paper: channel attention expert; form of Restormer's MDTA, arXiv 2111.09881 eq. 1)."""

    def __init__(self, dim: int, hidden: int, num_experts: int, *, shift: bool = False) -> None:
        super().__init__()
        self.qkv = StackedPointwise(num_experts, dim, 3 * hidden)
        self.local = StackedDepthwise(num_experts, 3 * hidden)
        self.temperature_E = nn.Parameter(torch.ones(num_experts))
        self.out = StackedPointwise(num_experts, hidden, dim)

    def forward(self, hidden_states: torch.Tensor, indices_BK: torch.Tensor, weights_BK: torch.Tensor) -> torch.Tensor:
        """See the contract in `mimdit.conditioner.experts`."""
        (batch, num_chosen), (height, width) = indices_BK.shape, hidden_states.shape[2:]
        qkv = self.local(self.qkv.fan_out(hidden_states, indices_BK), indices_BK)
        query, key, value = qkv.view(batch, num_chosen, -1, height * width).chunk(3, dim=2)
        # The product over positions is normalised after the fact: the same as normalised rows, with one pass less over the image.
        norm_q, norm_k = (rows.float().square().sum(dim=-1, keepdim=True).clamp_min(1e-6).rsqrt() for rows in (query, key))
        similarity = (query @ key.transpose(-1, -2)).float() * norm_q * norm_k.transpose(-1, -2)
        attention = (similarity * self.temperature_E[indices_BK][..., None, None]).softmax(dim=-1)
        attended = (attention.to(value.dtype) @ value).reshape(batch, -1, height, width)
        return self.out.fan_in(attended, indices_BK, weights_BK)
