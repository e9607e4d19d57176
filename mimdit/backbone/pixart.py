"""PixArt (arXiv 2310.00426, 2403.04692): a plain DiT that reads its text by cross-attention.

Its released weights predict the noise of DDPM's path, and its variance, not the velocity of a straight path: nothing here converts the one
into the other. So a PixArt backbone is a start to fine-tune on the velocity (``trainable``, or ``lora``), not a model that restores while
it is frozen. Its prompts are T5's tokens alone, all attended to: there is no mask.
"""

from __future__ import annotations

import inspect
from functools import partial

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from mimdit.backbone.family import Geometry

KIND = PixArtTransformer2DModel
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

_AUTOENCODER_DOWNSCALE = 8  # of the images whose size PixArt-alpha's 1024-pixel weights are told
_BLOCK = inspect.signature(BasicTransformerBlock.forward)


def geometry(transformer: PixArtTransformer2DModel) -> Geometry:
    """Its sizes. Its positions stretch with the image, so they reach as far as the images it was trained on."""
    config = transformer.config
    return Geometry(
        latent_channels=config.in_channels,
        token_patch=config.patch_size,
        token_dim=transformer.inner_dim,
        num_layers=config.num_layers,
        max_size=config.sample_size,
        text_width=config.caption_channels or config.cross_attention_dim,
        pooled_width=0,
    )


def prepare(transformer: PixArtTransformer2DModel) -> None:
    """Let each block take from its arguments the residual that belongs before it; see `velocity`."""
    for layer, block in enumerate(transformer.transformer_blocks):
        block.register_forward_pre_hook(partial(_add_residual, layer), with_kwargs=True)


def unread(transformer: PixArtTransformer2DModel) -> set[nn.Module]:
    """Every linear of it is read."""
    return set()


def velocity(
    transformer: PixArtTransformer2DModel,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    tokens: torch.Tensor,
    pooled: torch.Tensor,
    residuals: list[torch.Tensor] | None,
) -> torch.Tensor:
    """The first C channels of its answer are the velocity; the others, its variance, go unread.

    The residuals travel in an argument that every block is handed on, not in a variable beside the model: gradient checkpointing runs the
    blocks once more in the backward pass, when another call may have come between.
    """
    answer = transformer(
        hidden_states=latents,
        encoder_hidden_states=tokens,
        timestep=sigma * 1000,
        added_cond_kwargs=_size(latents) if transformer.use_additional_conditions else None,
        cross_attention_kwargs=None if residuals is None else {"residuals": residuals, "num_layers": transformer.config.num_layers},
        return_dict=False,
    )[0]
    return answer[:, : latents.shape[1]]


def _size(latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Height and width of the images in pixels ``[B, 2]``, and their ratio ``[B, 1]``, fp32."""
    height, width = (side * _AUTOENCODER_DOWNSCALE for side in latents.shape[2:])
    size = torch.tensor([[height, width, height / width]], device=latents.device).expand(len(latents), -1)
    return {"resolution": size[:, :2], "aspect_ratio": size[:, 2:]}


@torch.compiler.disable  # a compiled block is the same code for all layers only without its number
def _add_residual(layer: int, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Before block ``layer``, which is after block ``layer - 1``, add what is meant for there, and keep it from the attention."""
    call = _BLOCK.bind(block, *args, **kwargs)  # checkpointed, a block is given by position what it is otherwise given by name
    steering = call.arguments.get("cross_attention_kwargs")
    if steering is None:
        return None
    call.arguments["cross_attention_kwargs"] = None
    if layer > 0:
        residuals = steering["residuals"]
        residual = residuals[(layer - 1) * len(residuals) // steering["num_layers"]]
        call.arguments["hidden_states"] = call.arguments["hidden_states"] + residual
    return call.args[1:], call.kwargs
