"""The DiT's velocity for latents larger than the DiT was trained on: overlapping tiles, blended."""

from __future__ import annotations

import torch

from mimdit.backbone.dit import DiTBackbone


def tiled_velocity(
    backbone: DiTBackbone,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    residuals: list[torch.Tensor] | None,
    *,
    tile: int,
    overlap: int,
    **prompting: object,
) -> torch.Tensor:
    """Velocity ``[B, C, h, w]`` from tiles of at most ``tile`` latent pixels that overlap by at least ``overlap``, blended by linear ramps.

    The residuals are those of the whole image, cut along with it, so every tile is steered by what the whole image said. (ours; the
    blending of velocities follows MultiDiffusion, arXiv 2302.08113) ``prompting`` are the backbone's ``guidance`` and ``dropped``.
    """
    height, width = latents.shape[2:]
    patch = backbone.token_patch
    if height <= tile and width <= tile:
        return backbone.velocity(latents, sigma, residuals, **prompting)
    grids = None if residuals is None else [r.unflatten(1, (height // patch, width // patch)) for r in residuals]
    total, weight = torch.zeros_like(latents, dtype=torch.float32), latents.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in tile_starts(height, tile, overlap, patch):
        for left in tile_starts(width, tile, overlap, patch):
            bottom, right = min(top + tile, height), min(left + tile, width)
            part = None
            if grids is not None:
                part = [g[:, top // patch : bottom // patch, left // patch : right // patch].flatten(1, 2) for g in grids]
            velocity = backbone.velocity(latents[:, :, top:bottom, left:right].contiguous(), sigma, part, **prompting)
            ramp = _ramp(bottom - top, overlap, latents.device)[:, None] * _ramp(right - left, overlap, latents.device)[None, :]
            total[:, :, top:bottom, left:right] += velocity.float() * ramp
            weight[:, :, top:bottom, left:right] += ramp
    return total / weight


def tile_starts(size: int, tile: int, overlap: int, patch: int) -> list[int]:
    """Evenly spread starts of tiles that cover ``size``, each a multiple of ``patch``, as ``size`` and ``tile`` are.

    Raises:
        ValueError: ``tile`` is no multiple of ``patch``, or ``overlap`` leaves a tile less than one patch to advance.
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
    # Rounded down, neighbours are never further apart than the stride: the overlap is at least the one asked for.
    return [index * slack // (count - 1) * patch for index in range(count)]


def _ramp(size: int, overlap: int, device: torch.device) -> torch.Tensor:
    position = torch.arange(size, device=device, dtype=torch.float32)
    return (torch.minimum(position, size - 1 - position) + 1).clamp(max=max(1, overlap))
