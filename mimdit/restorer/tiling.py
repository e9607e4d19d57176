"""Velocity of latents larger than the DiT's position embedding covers: overlapping tiles, blended."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.prompts import Prompts
from mimdit.core.canvas import canvas

Scale = Callable[[list[torch.Tensor], torch.Tensor], list[torch.Tensor]]


def tiled_velocity(
    backbone: DiTBackbone,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    residuals: list[torch.Tensor] | None,
    *,
    tile: int,
    overlap: int,
    at_once: int = 1,
    device: torch.device | None = None,
    scale: Scale | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    guidance: float = 1.0,
    anchor: torch.Tensor | None = None,
    output_layer: nn.Module | None = None,
    prompts: Prompts | None = None,
) -> torch.Tensor:
    """Return the velocity ``[B, C, h, w]`` from overlapping tiles of at most ``tile`` latent pixels a side, blended by linear ramps.

    Each tile is steered by its part of the whole image's residuals. Not in the paper; blending velocities follows MultiDiffusion
    (arXiv 2302.08113).

    Args:
        backbone: The diffusion transformer.
        latents: Noisy latents ``[B, C, h, w]`` of the whole image, on any device; h and w multiples of the backbone's patch.
        sigma: Noise levels ``[B]`` in 0..1.
        residuals: Residuals ``[B, N, D]`` on the whole image's tokens, on the latents' device; None for none.
        tile: Side of a tile, in latent pixels.
        overlap: Minimum overlap of tiles, in latent pixels.
        at_once: Tiles in one forward pass of the backbone.
        device: Device of the backbone; None for the latents' device.
        scale: Function of a tile's residuals and ``sigma`` that returns one residual for each transformer block. It is applied tile by tile
            to save memory.
        progress: Called after each group of tiles with the fraction of all tiles in it.
        guidance: Strength of the prompt; this and the next two arguments are as in `DiTBackbone.velocity`.
        anchor: Latents ``[B, C, h, w]`` that the predicted clean latent starts from; None for none.
        output_layer: Replacement of the transformer's last layer; None for its own.
        prompts: Prompts of the images; None for the backbone's.

    Raises:
        ValueError: Tiles of this size and overlap cannot cover the latents.
    """
    height, width = latents.shape[2:]
    patch, device = backbone.token_patch, latents.device if device is None else device
    high, wide = min(tile, height), min(tile, width)
    tops, lefts = tile_starts(height, tile, overlap, patch), tile_starts(width, tile, overlap, patch)
    corners = [(top, left) for top in tops for left in lefts]
    grids = None if residuals is None else [r.unflatten(1, (height // patch, width // patch)) for r in residuals]

    def cut(image: torch.Tensor, group: list[tuple[int, int]]) -> torch.Tensor:
        return torch.cat([image[:, :, top : top + high, left : left + wide] for top, left in group]).to(device)

    def evaluate(group: list[tuple[int, int]]) -> torch.Tensor:
        sigmas, steering = sigma.to(device).repeat(len(group)), None
        if grids is not None:
            cells = [(slice(top // patch, (top + high) // patch), slice(left // patch, (left + wide) // patch)) for top, left in group]
            steering = [torch.cat([g[:, down, across].flatten(1, 2) for down, across in cells]).to(device) for g in grids]
            steering = steering if scale is None else scale(steering, sigmas)
        anchors = None if anchor is None else cut(anchor, group)
        velocity = backbone.velocity(
            cut(latents, group), sigmas, steering, guidance=guidance, anchor=anchors, output_layer=output_layer,
            prompts=None if prompts is None else prompts.repeat(len(group)),
        )  # fmt: skip
        return velocity.to(latents.device)

    total = canvas(*latents.shape, device=latents.device).zero_()
    down = _weights(height, tops, _ramp(high, overlap, latents.device))
    across = _weights(width, lefts, _ramp(wide, overlap, latents.device))
    for first in range(0, len(corners), at_once):
        group = corners[first : first + at_once]
        for (top, left), velocity in zip(group, evaluate(group).float().chunk(len(group))):
            total[:, :, top : top + high, left : left + wide] += velocity * (down[top][:, None] * across[left])
        progress(len(group) / len(corners))
    return total


def tile_starts(size: int, tile: int, overlap: int, patch: int) -> list[int]:
    """Return evenly spaced starts of tiles that cover ``size``, each a multiple of ``patch``, as ``size`` and ``tile`` are.

    Raises:
        ValueError: ``tile`` is not a multiple of ``patch``, or ``overlap`` leaves a tile less than one patch to advance.
    """
    if tile % patch or not 0 <= overlap <= tile - patch:
        raise ValueError(
            f"tile={tile} with overlap={overlap} cannot cut tokens of {patch} latent pixels: "
            f"make tile a multiple of {patch} and overlap at most tile - {patch}"
        )
    if size <= tile:
        return [0]
    slack, stride = (size - tile) // patch, (tile - overlap) // patch
    count = -(-slack // stride) + 1
    # Rounded down, neighbors are never further apart than the stride: the overlap is at least the one given.
    return [index * slack // (count - 1) * patch for index in range(count)]


def _weights(size: int, starts: list[int], ramp: torch.Tensor) -> dict[int, torch.Tensor]:
    """Return the weights along one side of the tile at each start: ramps that sum to 1 at every position."""
    total = torch.zeros(size, device=ramp.device)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return {start: ramp / total[start : start + len(ramp)] for start in starts}


def _ramp(size: int, overlap: int, device: torch.device) -> torch.Tensor:
    position = torch.arange(size, device=device, dtype=torch.float32)
    return (torch.minimum(position, size - 1 - position) + 1).clamp(max=max(1, overlap))
