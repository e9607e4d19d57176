"""PixArt (arXiv 2310.00426, 2403.04692): a plain DiT with cross-attention to the text.

The released weights predict the noise of DDPM's path and its variance, not the velocity of a straight path, and nothing here converts one
to the other. A PixArt backbone is therefore a starting point for fine-tuning (``trainable`` or ``lora``); frozen, it does not restore.
Prompts are T5 tokens without a mask.
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

_AUTOENCODER_DOWNSCALE = 8  # of the image size that PixArt-alpha's 1024-pixel weights take as input
_BLOCK = inspect.signature(BasicTransformerBlock.forward)


def geometry(transformer: PixArtTransformer2DModel) -> Geometry:
    """Return the sizes. Position embeddings stretch with the image; ``max_size`` is the size of the training images."""
    config = transformer.config
    return Geometry(
        latent_channels=config["in_channels"],
        token_patch=config["patch_size"],
        token_dim=transformer.inner_dim,
        num_layers=config["num_layers"],
        max_size=config["sample_size"],
        text_width=config["caption_channels"] or config["cross_attention_dim"],
        pooled_width=0,
    )


def prepare(transformer: PixArtTransformer2DModel) -> None:
    """Register a hook on each block that adds the residual before it; see `predict`."""
    for layer, block in enumerate(transformer.transformer_blocks):
        block.register_forward_pre_hook(partial(_add_residual, layer), with_kwargs=True)


def unread(transformer: PixArtTransformer2DModel) -> set[nn.Module]:
    """Return nothing: every linear layer influences the output."""
    return set()


def predict(
    transformer: PixArtTransformer2DModel,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    tokens: torch.Tensor,
    pooled: torch.Tensor,
    residuals: list[torch.Tensor] | None,
    guidance: float | None = None,
) -> torch.Tensor:
    """Return the first C channels of the transformer's output; the others, the variance, are unused. It has no guidance input.

    Residuals are passed in an argument that every block gets, not in a variable outside the model: gradient checkpointing runs the blocks
    again in the backward pass, after other calls.
    """
    output = transformer(
        hidden_states=latents,
        encoder_hidden_states=tokens,
        timestep=sigma * 1000,
        added_cond_kwargs=_size(latents) if transformer.use_additional_conditions else None,
        cross_attention_kwargs=None if residuals is None else {"residuals": residuals, "num_layers": transformer.config["num_layers"]},
        return_dict=False,
    )[0]
    return output[:, : latents.shape[1]]


def _size(latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return height and width of the images in pixels ``[B, 2]``, and their ratio ``[B, 1]``, fp32."""
    height, width = (side * _AUTOENCODER_DOWNSCALE for side in latents.shape[2:])
    size = torch.tensor([[height, width, height / width]], device=latents.device).expand(len(latents), -1)
    return {"resolution": size[:, :2], "aspect_ratio": size[:, 2:]}


@torch.compiler.disable  # the layer number would force a compiled version per block
def _add_residual(layer: int, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Add the residual that belongs after block ``layer - 1``, and remove the residuals from the attention's arguments."""
    call = _BLOCK.bind(block, *args, **kwargs)  # checkpointing passes by position what is otherwise passed by name
    steering = call.arguments.get("cross_attention_kwargs")
    if steering is None:
        return None
    call.arguments["cross_attention_kwargs"] = None
    if layer > 0:
        residuals = steering["residuals"]
        residual = residuals[(layer - 1) * len(residuals) // steering["num_layers"]]
        call.arguments["hidden_states"] = call.arguments["hidden_states"] + residual
    return call.args[1:], call.kwargs
