"""What a family of diffusion transformers must provide for `DiTBackbone` to work with it unforked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import ModelMixin
from torch import nn


@dataclass(frozen=True)
class Geometry:
    """Sizes of a transformer that codec, prompts, conditioner and tiling are fitted to.

    Args:
        latent_channels: Channels C of the latents.
        token_patch: Latent pixels per token, in each direction.
        token_dim: Width D of the image tokens.
        num_layers: Blocks L.
        max_size: Latent pixels of the longest side that its positions reach.
        text_width: Width of a text token.
        pooled_width: Width of the pooled text embedding; 0 where it takes none.
    """

    latent_channels: int
    token_patch: int
    token_dim: int
    num_layers: int
    max_size: int
    text_width: int
    pooled_width: int


class Family(Protocol):
    """A module of functions, such as `mimdit.backbone.sd3`; `mimdit.backbone.dit.FAMILIES` lists them.

    ``KIND`` is the diffusers class, and ``LORA_TARGETS`` ends the names of the linears that adapters go to by default.
    """

    KIND: type[ModelMixin]
    LORA_TARGETS: Sequence[str]

    def geometry(transformer: ModelMixin) -> Geometry:
        """Its sizes, from its config."""

    def prepare(transformer: ModelMixin) -> None:
        """What must be done once to a transformer before it can take residuals."""

    def unread(transformer: ModelMixin) -> set[nn.Module]:
        """Linears whose output no velocity depends on: adapters there would never learn."""

    def velocity(
        transformer: ModelMixin,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        residuals: list[torch.Tensor] | None,
    ) -> torch.Tensor:
        """Its answer ``[B, C, h, w]`` to ``latents`` of that shape at ``sigma [B]`` in 0..1, fp32, and a prompt ``[B, T, W]``, ``[B, P]``.

        Residual i of n, ``[B, N, D]``, is added to the image tokens after each of the blocks ``i L / n`` up to ``(i + 1) L / n``, but not
        after the last block. All but sigma has the transformer's precision.
        """
