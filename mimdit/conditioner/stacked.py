"""Layers whose weights are stacked over sub-experts and gathered per image: routing without a loop, in static shapes.

A stack holds E structure-identical layers in one parameter. A forward picks K of them for every image by an index, so all sub-experts
are part of every step on every rank (their gradient is zero where nothing chose them), which DDP and FSDP need.

Shape legend: B images, E sub-experts in the stack, K chosen per image, I input and O output channels of one sub-expert.
"""

from __future__ import annotations

import torch
from torch import nn


class StackedPointwise(nn.Module):
    """E pointwise (1x1) linear layers in one parameter ``[E, O, I]``. (ours)"""

    def __init__(self, num_experts: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight_EOI = nn.Parameter(torch.empty(num_experts, out_channels, in_channels).uniform_(-1, 1) * in_channels**-0.5)

    def fan_out(self, hidden_states: torch.Tensor, indices_BK: torch.Tensor) -> torch.Tensor:
        """Give the same ``[B, I, H, W]`` to the K chosen layers of each image: ``[B, K * O, H, W]``, sub-expert major."""
        weight = self.weight_EOI[indices_BK].flatten(1, 2)
        return _per_image(hidden_states, weight.to(hidden_states.dtype))

    def fan_in(self, hidden_states: torch.Tensor, indices_BK: torch.Tensor, weights_BK: torch.Tensor) -> torch.Tensor:
        """Sum the K chosen layers, each on its own channels of ``[B, K * I, H, W]`` and times its gate: ``[B, O, H, W]``."""
        weight = self.weight_EOI[indices_BK] * weights_BK[..., None, None]
        weight = weight.permute(0, 2, 1, 3).flatten(2)
        return _per_image(hidden_states, weight.to(hidden_states.dtype))


class StackedDepthwise(nn.Module):
    """E depth-wise 3x3 convolutions in one parameter ``[E, C, 1, 3, 3]``, zero padding. (ours)"""

    def __init__(self, num_experts: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, channels, 1, 3, 3).uniform_(-1, 1) / 3)

    def forward(self, hidden_states: torch.Tensor, indices_BK: torch.Tensor) -> torch.Tensor:
        """Filter ``[B, K * C, H, W]``, each sub-expert its own C channels."""
        batch, channels, height, width = hidden_states.shape
        weight = self.weight[indices_BK].flatten(1, 2).to(hidden_states.dtype)
        if hidden_states.device.type == "cpu":
            # Image by image in channels-last memory: oneDNN filters that three times faster than the folded form.
            pairs = zip(hidden_states.split(1), weight)
            return torch.cat([nn.functional.conv2d(image, filters, padding=1, groups=channels) for image, filters in pairs])
        folded = hidden_states.reshape(1, batch * channels, height, width)
        return nn.functional.conv2d(folded, weight.flatten(0, 1), padding=1, groups=batch * channels).view_as(hidden_states)


def _per_image(hidden_states: torch.Tensor, weight_BOI: torch.Tensor) -> torch.Tensor:
    """Apply every image's own matrix at each position of ``[B, I, H, W]``: ``[B, O, H, W]`` in channels-last memory."""
    tokens = hidden_states.flatten(2).transpose(1, 2)
    return (tokens @ weight_BOI.transpose(1, 2)).transpose(1, 2).unflatten(2, hidden_states.shape[2:])
