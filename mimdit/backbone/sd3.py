"""The SD3 family (MMDiT, arXiv 2403.03206): SD3-medium, SD3.5-medium, SD3.5-large."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from torch import nn

from mimdit.backbone.family import Geometry

KIND = SD3Transformer2DModel
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def geometry(transformer: SD3Transformer2DModel) -> Geometry:
    """Return the sizes; ``max_size`` is the size of the position table in the weights."""
    config = transformer.config
    return Geometry(
        latent_channels=config["in_channels"],
        token_patch=config["patch_size"],
        token_dim=transformer.inner_dim,
        num_layers=config["num_layers"],
        max_size=config["pos_embed_max_size"] * config["patch_size"],
        text_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"],
    )


def prepare(transformer: SD3Transformer2DModel) -> None:
    """Do nothing: residuals are an argument of the diffusers class."""


def unread(transformer: SD3Transformer2DModel) -> set[nn.Module]:
    """Return the last block's text queries: they update only text tokens, which nothing reads after the last block."""
    text_queries = cast(JointTransformerBlock, transformer.transformer_blocks[-1]).attn.add_q_proj
    assert text_queries is not None  # every block of this class attends jointly
    return {text_queries}


def predict(
    transformer: SD3Transformer2DModel,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    tokens: torch.Tensor,
    pooled: torch.Tensor,
    residuals: list[torch.Tensor] | None,
    guidance: float | None = None,
) -> torch.Tensor:
    """Return the transformer's output; its timestep is 1000 sigma, and it has no guidance input."""
    return transformer(
        hidden_states=latents,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=sigma * 1000,
        block_controlnet_hidden_states=residuals,
        return_dict=False,
    )[0]
