"""Flow-matching loss of a restorer: the error of the DiT's velocity, steered by the conditioner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mimdit.conditioner.moe_conditioner import Conditioning
from mimdit.flow import draw_path
from mimdit.routing.token_routing import OnTokens
from mimdit.training.losses import flow_error, log_error

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer


def flow_loss(
    restorer: Restorer,
    degraded: torch.Tensor,
    clean: torch.Tensor,
    conditioning: Conditioning,
    draws: list[str],
    *,
    degradation: torch.Tensor | None = None,
    on_tokens: OnTokens | None = None,
) -> torch.Tensor:
    """Return the error of the predicted velocity on the path to the clean latents.

    Args:
        restorer: The restorer.
        degraded: Latents ``[B, C, h, w]`` of the degraded images.
        clean: Latents of the clean images.
        conditioning: The conditioner's output on ``degraded``.
        draws: Names of the images' draws; with the seed they determine noise, sigma and dropped prompts.
        degradation: Multi-hot degradations ``[B, A]``, needed for ``prompting: detected``.
        on_tokens: As for `DiTBackbone.velocity`.

    Raises:
        ValueError: The latents exceed the backbone's position embedding.
    """
    count = restorer.flow_images
    if count is not None:
        degraded, clean, draws, conditioning = degraded[:count], clean[:count], draws[:count], conditioning.first(count)
    if max(clean.shape[2:]) > restorer.backbone.max_size:
        size = "x".join(map(str, clean.shape[2:]))
        limit = f"{restorer.backbone.max_size}, the largest side that the backbone's positions reach"
        raise ValueError(f"crops of {size} latent pixels exceed {limit}; train on smaller crops")
    noise, sigma = draw_path(restorer.flow, clean, draws, restorer.seed)
    latents, target = restorer.flow.interpolate(clean, noise, sigma, conditioning.estimate)
    residuals = restorer.conditioner.timestep_scale(conditioning.residuals, sigma)
    dropped, anchor = restorer.backbone.drop_prompts(draws, restorer.seed), restorer.anchor_of(degraded, conditioning)
    prompts = None
    if restorer.prompting == "detected":
        assert degradation is not None, "prompting: detected needs the labels"
        prompts = restorer.backbone.prompts.mixed(degradation[: len(clean)])
    velocity = restorer.backbone.velocity(
        latents, sigma, residuals, dropped=dropped, anchor=anchor, output_layer=restorer.output_layer, prompts=prompts, on_tokens=on_tokens
    )
    least = restorer.backbone.min_divisor(anchored=restorer.anchor != "none")
    error = flow_error(velocity, target, sigma, on=restorer.flow_loss_on, sigma_min=least)
    if restorer.flow_norm == "psnr":
        return log_error(error)
    return error.mean() if restorer.flow_norm == "mse" else (error + 1e-6).sqrt().mean()
