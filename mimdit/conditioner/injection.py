"""Injection: from conditioner features to residuals on the diffusion transformer's token stream."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def zero_initialized(layer: Layer) -> Layer:
    """Set weight and bias of a layer to zero, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualProjection(nn.Module):
    """Zero-initialized linear layer of a MiM block, from the conditioner's grid to the DiT's tokens (paper: zero-initialized injection).

    At initialization the steered DiT is bitwise equal to the pretrained one. If the conditioner's grid is finer than the DiT's, the
    ``fold x fold`` positions under a token are concatenated first, so that no detail is averaged away. The paper does not give the
    injection points.

    Args:
        dim: Channels of the hidden states.
        token_dim: Width D of the DiT's tokens.
        fold: Conditioner positions per token, in each direction.
    """

    def __init__(self, dim: int, token_dim: int, fold: int) -> None:
        super().__init__()
        self.fold = fold
        self.linear = zero_initialized(nn.Linear(dim * fold**2, token_dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Project ``[B, C, H, W]`` to tokens ``[B, N, D]``, N = (H / fold) * (W / fold), row by row."""
        folded = nn.functional.pixel_unshuffle(hidden_states, self.fold)
        return self.linear(folded.flatten(2).transpose(1, 2))


class TimestepScale(nn.Module):
    """Mapping of M residuals to L transformer blocks, with a scale ``1 + MLP(sigma)`` for each block. Not in the paper.

    The last block takes no residual, as in diffusers: L residuals are returned, the last one unused.

    Args:
        token_dim: Width D of the DiT's tokens.
        num_layers: Blocks L of the DiT.
        width: Inner width of the MLP.
    """

    def __init__(self, token_dim: int, num_layers: int, *, width: int = 64) -> None:
        super().__init__()
        self.num_injected = max(1, num_layers - 1)
        self.width = width
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), zero_initialized(nn.Linear(width, self.num_injected * token_dim))
        )  # fmt: skip

    def forward(self, residuals: list[torch.Tensor], sigma: torch.Tensor) -> list[torch.Tensor]:
        """Return L residuals ``[B, N, D]`` from M residuals of that shape, at ``sigma [B]`` in 0..1."""
        # Not a buffer: casting the model to bf16 would round the frequencies and change the trained function.
        frequencies = torch.exp(torch.linspace(0, math.log(1000.0), self.width // 2, dtype=torch.float32, device=sigma.device))
        angles = sigma.float()[:, None] * frequencies
        encoded = torch.cat([angles.sin(), angles.cos()], dim=1).to(next(self.mlp.parameters()).dtype)
        scale = 1 + self.mlp(encoded).unflatten(1, (self.num_injected, 1, -1))
        stretched = [residuals[layer * len(residuals) // self.num_injected] * scale[:, layer] for layer in range(self.num_injected)]
        return [*stretched, stretched[-1]]
