"""The DiT's velocity for latents larger than the DiT was trained on: overlapping tiles, blended."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mimdit.backbone.dit import DiTBackbone
from mimdit.core.canvas import canvas


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
    scale: Callable[[list[torch.Tensor], torch.Tensor], list[torch.Tensor]] | None = None,
    done: Callable[[float], None] = lambda share: None,
    anchor: torch.Tensor | None = None,
    **prompting: object,
) -> torch.Tensor:
    """Velocity ``[B, C, h, w]`` from tiles of at most ``tile`` latent pixels that overlap by at least ``overlap``, blended by linear ramps.

    The residuals are those of the whole image, cut along with it, so every tile is steered by what the whole image said. (ours; the
    blending of velocities follows MultiDiffusion, arXiv 2302.08113)

    Args:
        backbone: The diffusion transformer.
        latents: The whole image, on any device.
        sigma: Noise level of each image.
        residuals: What steers it, on the whole image's tokens, or None.
        tile: Side of a tile.
        overlap: Least overlap of tiles.
        at_once: Tiles that go through the backbone together.
        device: Where the backbone is; None where the latents are.
        scale: Makes of a tile's residuals and ``sigma`` those of each block: for the whole image at once they would be many.
        done: Is told the share of all, 0..1, that each group of tiles was.
        anchor: What the clean latent starts from, of the size of ``latents``; None for nothing.
        **prompting: The backbone's ``guidance``, ``dropped`` and ``output_layer``.
    """
    height, width = latents.shape[2:]
    patch, device = backbone.token_patch, latents.device if device is None else device
    high, wide = min(tile, height), min(tile, width)
    starts = [(top, left) for top in tile_starts(height, tile, overlap, patch) for left in tile_starts(width, tile, overlap, patch)]
    grids = None if residuals is None else [r.unflatten(1, (height // patch, width // patch)) for r in residuals]

    def tiles(image: torch.Tensor, group: list[tuple[int, int]]) -> torch.Tensor:
        return torch.cat([image[:, :, top : top + high, left : left + wide] for top, left in group]).to(device)

    def ask(group: list[tuple[int, int]]) -> torch.Tensor:
        part = tiles(latents, group)
        levels, steering = sigma.to(device).repeat(len(group)), None
        if grids is not None:
            cells = [(slice(top // patch, (top + high) // patch), slice(left // patch, (left + wide) // patch)) for top, left in group]
            steering = [torch.cat([g[:, down, across].flatten(1, 2) for down, across in cells]).to(device) for g in grids]
            steering = steering if scale is None else scale(steering, levels)
        given = dict(prompting)
        if given.get("dropped") is not None:
            given["dropped"] = given["dropped"].repeat(len(group))
        if anchor is not None:
            given["anchor"] = tiles(anchor, group)
        return backbone.velocity(part, levels, steering, **given)

    if len(starts) == 1:
        velocity = ask(starts).to(latents.device)
        done(1.0)
        return velocity
    total = canvas(*latents.shape, device=latents.device).zero_()
    down, across = (
        _shares(size, tile_starts(size, tile, overlap, patch), _ramp(side, overlap, latents.device))
        for size, side in ((height, high), (width, wide))
    )
    for first in range(0, len(starts), at_once):
        group = starts[first : first + at_once]
        for (top, left), velocity in zip(group, ask(group).to(latents.device).float().chunk(len(group))):
            total[:, :, top : top + high, left : left + wide] += velocity * (down[top][:, None] * across[left])
        done(len(group) / len(starts))
    return total


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


def _shares(size: int, starts: list[int], ramp: torch.Tensor) -> dict[int, torch.Tensor]:
    """The weights along one side of the tile at each start: ramps that sum to 1 at every position."""
    total = torch.zeros(size, device=ramp.device)
    for start in starts:
        total[start : start + len(ramp)] += ramp
    return {start: ramp / total[start : start + len(ramp)] for start in starts}


def _ramp(size: int, overlap: int, device: torch.device) -> torch.Tensor:
    position = torch.arange(size, device=device, dtype=torch.float32)
    return (torch.minimum(position, size - 1 - position) + 1).clamp(max=max(1, overlap))
