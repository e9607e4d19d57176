"""The conditioner on an image too large for one pass: piece by piece and block by block, equal to one pass up to rounding.

All statistics of the whole image that a block's gates and experts read are accumulated over the pieces, at full resolution, before any
piece goes through the block: a smaller copy of the image would hide noise and blur. Each block therefore passes over the pieces twice.
Between blocks the hidden states stay on the latents' device, large ones in files (`mimdit.core.canvas`); only one piece at a time is on the
conditioner's device.

Shape legend: M MiM blocks, B images, C channels, N tokens, D token channels, G expert groups, F router features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mimdit.conditioner.estimate import EstimateHead, interpolate_cells
from mimdit.conditioner.experts import SwinAttention
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner
from mimdit.conditioner.piece import Piece, Span, pieces
from mimdit.core.canvas import canvas
from mimdit.routing.router import PooledFeatures, outside_autocast
from mimdit.routing.routing import Routing


@torch.no_grad()
def condition_in_pieces(
    conditioner: MoEConditioner,
    latents: torch.Tensor,
    area: int,
    routing: Routing | None = None,
    *,
    gains_MG: torch.Tensor | None = None,
    done: Callable[[float], None] = lambda share: None,
) -> Conditioning:
    """Run `MoEConditioner.forward` in pieces of about ``area`` latent pixels. Not in the paper.

    Piece borders lie between Swin windows, and each piece includes as much of its neighbors as windows and filters reach. Compared with one
    pass, only the order of sums differs.

    Args:
        conditioner: The conditioner, on its own device.
        latents: The degraded latents ``[B, C, h, w]``, on any device; residuals and estimate are returned there.
        area: Latent pixels on the conditioner's device at a time, approximately.
        routing: Gates to use instead of the routers' decisions.
        gains_MG: Factors of the groups' weights; see `mimdit.restorer.steering`.
        done: Called after each unit of work with its fraction of the total; the fractions sum to 1.

    Raises:
        ValueError: The latents' height or width is not a multiple of ``conditioner.multiple``.
    """
    conditioner.check_size(latents)
    height, width = (size // conditioner.patch_size for size in latents.shape[2:])
    grid = {"area": max(1, area // conditioner.patch_size**2 // len(latents)), "multiple": conditioner.multiple // conditioner.patch_size}
    narrow = pieces(height, width, **grid, halo=3)
    wide = pieces(height, width, **grid, halo=SwinAttention.window * conditioner.moe_stride)

    hidden_states, pooled = _embed(conditioner, latents, narrow)
    ahead = _canvas_like(hidden_states)
    inter, intra, features, residuals = [], [], [], []
    share = 1 / (2 * len(wide) * len(conditioner.blocks))
    for block, projection, overrides in zip(conditioner.blocks, conditioner.projections, conditioner.overrides(routing, gains_MG)):
        features.append(pooled.features().to(conditioner.device))
        gates = block.inter_moe.decide(features[-1], *overrides)
        inter.append(gates[0])
        intra.append(gates[1])
        statistics = None
        for piece in wide:
            of_piece = block.statistics(piece.cut(hidden_states).to(conditioner.device), gates[1], piece)
            statistics = of_piece if statistics is None else _sum(statistics, of_piece)
            done(share)
        residual, pooled = None, PooledFeatures()
        for piece in wide:
            own = piece.own(block.transform(piece.cut(hidden_states).to(conditioner.device), *gates, statistics))
            piece.put(ahead, own)
            pooled.add(own)
            residual = _put_tokens(residual, projection(own), piece.coarser(conditioner.fold), hidden_states.device)
            done(share)
        hidden_states, ahead = ahead, hidden_states
        residuals.append(residual.flatten(2).transpose(1, 2))
    last_BF = pooled.features().to(conditioner.device)
    identified = conditioner.identify([*features, last_BF])
    head, scales = conditioner.estimate_head, conditioner.scales(identified)
    estimate = None if head is None else _estimate(head, latents, hidden_states, narrow, last_BF, scales)
    return Conditioning(residuals, conditioner.record(inter, intra, torch.stack(features)), estimate, identified=identified)


def _embed(conditioner: MoEConditioner, latents: torch.Tensor, over: list[Piece]) -> tuple[torch.Tensor, PooledFeatures]:
    hidden_states, pooled = None, PooledFeatures()
    for piece in over:
        own = piece.own(conditioner.embed_patches(piece.finer(conditioner.patch_size).cut(latents).to(conditioner.device)))
        if hidden_states is None:
            hidden_states = _image(own, piece, latents.device)
        piece.put(hidden_states, own)
        pooled.add(own)
    return hidden_states, pooled


def _image(own: torch.Tensor, piece: Piece, device: torch.device) -> torch.Tensor:
    """Allocate the image ``[B, C, H, W]`` that ``own`` is a piece of, channels last in memory."""
    return canvas(len(own), piece.down.whole, piece.across.whole, own.shape[1], dtype=own.dtype, device=device).permute(0, 3, 1, 2)


def _canvas_like(image: torch.Tensor) -> torch.Tensor:
    """Allocate an image of the same shape and type, channels last in memory."""
    batch, channels, height, width = image.shape
    return canvas(batch, height, width, channels, dtype=image.dtype, device=image.device).permute(0, 3, 1, 2)


def _sum(total: list[tuple[torch.Tensor, ...]], share: list[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(one + other for one, other in zip(*group)) for group in zip(total, share)]


def _put_tokens(into: torch.Tensor | None, tokens: torch.Tensor, piece: Piece, device: torch.device) -> torch.Tensor:
    """Write a piece's tokens ``[B, n, D]`` into the token image ``[B, D, H, W]``, allocated with the first piece."""
    own = tokens.transpose(1, 2).unflatten(2, (piece.down.size, piece.across.size))
    into = _image(own, piece, device) if into is None else into
    piece.put(into, own)
    return into


def _estimate(
    head: EstimateHead,
    latents: torch.Tensor,
    hidden_states: torch.Tensor,
    over: list[Piece],
    features_BF: torch.Tensor,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    tone_scale, detail_scale = (1, 1) if scales is None else scales
    estimate, tone, device = canvas(*latents.shape, device=latents.device), head.tone, features_BF.device
    if tone is not None:
        with outside_autocast(features_BF):
            everywhere = tone.everywhere(tone.statistics(latents, features_BF))
            cells = None if tone.grid is None else _cells(tone.grid, hidden_states, over, device)
    for piece in over:
        fine = piece.finer(head.patch_size)
        seen = fine.cut(latents).to(device)
        local = fine.own(head.local(seen, piece.cut(hidden_states).to(device), detail_scale))
        if tone is not None:
            with outside_autocast(features_BF):
                here = 0 if cells is None else _coefficients(cells, piece.coarser(tone.grid.cell), tone.grid.cell * head.patch_size)
                local = local + tone_scale * tone.change(fine.own(seen), everywhere + here)
        fine.put(estimate, local)
    return estimate


def _cells(grid: torch.nn.Module, hidden_states: torch.Tensor, over: list[Piece], device: torch.device) -> torch.Tensor:
    """Return the coefficients of all cells; cells are few, so the network runs once for the whole image."""
    statistics = None
    for piece in over:
        own = grid.statistics(hidden_states[:, :, piece.down.own, piece.across.own].to(device))
        coarse = piece.coarser(grid.cell)
        statistics = _image(own, coarse, device) if statistics is None else statistics
        coarse.put(statistics, own)
    return grid.of_cells(statistics)


def _coefficients(cells: torch.Tensor, piece: Piece, side: int) -> torch.Tensor:
    """Interpolate the cells to the piece's own positions, ``side`` per cell, with one neighbor cell on each inner side."""
    around = Piece(_with_neighbors(piece.down), _with_neighbors(piece.across))
    seen = around.cut(cells)
    return around.finer(side).own(interpolate_cells(seen, (seen.shape[2] * side, seen.shape[3] * side)))


def _with_neighbors(span: Span) -> Span:
    return Span(span.start, span.size, min(1, span.start), min(1, span.whole - span.start - span.size), span.whole)
