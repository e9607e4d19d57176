"""The FLUX.1 family: [dev], whose guidance is an input of the transformer, and [schnell], which has none.

Double blocks hold image and text tokens in two streams, the single blocks after them in one. Residuals are added after the double blocks,
through the argument that diffusers' class has for a ControlNet. No paper describes the family; the source is diffusers' ``FluxPipeline``.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from mimdit.backbone.family import Geometry

KIND = FluxTransformer2DModel
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

_PATCH = 2  # latent pixels that the pipeline packs into a token, in each direction
_TRAINING_SIZE = 128  # latent pixels of 1024-pixel images, the pipeline's default
_GUIDANCE = 3.5  # the default of FluxPipeline and of diffusers' training scripts for FLUX.1 [dev]


def geometry(transformer: FluxTransformer2DModel) -> Geometry:
    """Return the sizes. The stack of single blocks counts as the last block, so every double block takes a residual.

    Rotary positions have no end; ``max_size`` is the pipeline's default size.
    """
    config = transformer.config
    return Geometry(
        latent_channels=config["in_channels"] // _PATCH**2,
        token_patch=_PATCH,
        token_dim=transformer.inner_dim,
        num_layers=config["num_layers"] + 1,
        max_size=_TRAINING_SIZE,
        text_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"],
        classifier_free=False,
        guidance=_GUIDANCE if config["guidance_embeds"] else None,
    )


def prepare(transformer: FluxTransformer2DModel) -> None:
    """Do nothing: residuals are an argument of the diffusers class."""


def unread(transformer: FluxTransformer2DModel) -> set[nn.Module]:
    """Return nothing: the single blocks read both streams, and their layers are shared by text and image tokens."""
    return set()


def predict(
    transformer: FluxTransformer2DModel,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    tokens: torch.Tensor,
    pooled: torch.Tensor,
    residuals: list[torch.Tensor] | None,
    guidance: float | None = None,
) -> torch.Tensor:
    """Return the transformer's output; its timestep is sigma, which it multiplies by 1000 itself.

    The class first rounds sigma to the precision of the weights, in its pipeline too: in bf16 by up to 2 of 1000.
    """
    height, width = (side // _PATCH for side in latents.shape[2:])
    packed = transformer(
        hidden_states=pack(latents),
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=sigma,
        img_ids=image_ids(height, width, latents.device),
        txt_ids=torch.zeros(tokens.shape[1], 3, device=latents.device),
        guidance=None if guidance is None else torch.full_like(sigma, guidance),
        controlnet_block_samples=None if residuals is None else _per_block(residuals, transformer.config["num_layers"]),
        return_dict=False,
    )[0]
    return unpack(packed, height, width)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Return latents ``[B, C, h, w]`` as tokens ``[B, h/2 * w/2, 4C]``, row by row: channels, then the rows and columns of a patch."""
    return nn.functional.pixel_unshuffle(latents, _PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return tokens ``[B, height * width, 4C]`` as latents ``[B, C, 2 height, 2 width]``, the inverse of `pack`."""
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height, width)), _PATCH)


def image_ids(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the positions of ``height * width`` tokens, ``[N, 3]``: zero, row, column. Those of text tokens are zeros."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.cartesian_prod(torch.zeros(1, dtype=rows.dtype, device=device), rows, columns).float()


def _per_block(residuals: list[torch.Tensor], double_blocks: int) -> list[torch.Tensor]:
    """Return one residual per double block. Of fewer, diffusers' rounded interval would leave the last ones out."""
    depth = double_blocks + 1
    return [residuals[layer * len(residuals) // depth] for layer in range(double_blocks)]
