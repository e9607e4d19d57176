"""What the conditioner says of an image too large to be worked on in one piece: piece by piece, block by block, the same to rounding.

Everything that a gate or an expert reads of the whole image is gathered from all pieces, at full resolution, before any piece goes through
the block: a smaller copy of the image would hide noise and blur. So each block passes over the pieces twice. Between blocks, hidden states
lie where the latents do, large ones in files (`mimdit.core.canvas`); only a piece at a time is on the conditioner's device.
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
from mimdit.routing.routing import Gates, Routing


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
    """`MoEConditioner.forward` for ``latents [B, C, h, w]`` on any device, with about ``area`` latent pixels at a time on its own. (ours)

    Residuals and estimate are where the latents are. Borders lie between Swin windows, and each piece sees as much of its neighbours as
    windows and filters reach, so that only the order of sums differs from one piece. ``done`` is told the share of all, 0..1, that each
    piece was.

    Raises:
        ValueError: The size is no multiple of the conditioner's.
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
    for index, (block, projection) in enumerate(zip(conditioner.blocks, conditioner.projections)):
        features.append(pooled.features().to(conditioner.device))
        decided = block.inter_moe.route(features[-1])
        if routing is not None:
            decided = tuple(gates.map(lambda tensor, m=index: tensor[m]) for gates in (routing.inter, routing.intra))
        if gains_MG is not None:
            decided = (decided[0].scaled(gains_MG[index]), decided[1])
        inter.append(decided[0])
        intra.append(decided[1])
        statistics = None
        for piece in wide:
            of_piece = block.statistics(piece.cut(hidden_states).to(conditioner.device), decided[1], piece)
            statistics = of_piece if statistics is None else _sum(statistics, of_piece)
            done(share)
        residual, pooled = None, PooledFeatures()
        for piece in wide:
            own = piece.own(block.transform(piece.cut(hidden_states).to(conditioner.device), *decided, statistics))
            piece.put(ahead, own)
            pooled.add(own)
            residual = _put_tokens(residual, projection(own), piece.coarser(conditioner.fold), hidden_states.device)
            done(share)
        hidden_states, ahead = ahead, hidden_states
        residuals.append(residual.flatten(2).transpose(1, 2))
    record = conditioner.record(Gates.stack(inter), Gates.stack(intra), torch.stack(features))
    head, last_BF = conditioner.estimate_head, pooled.features().to(conditioner.device)
    identified = None if conditioner.identification is None else conditioner.identification([*features, last_BF])
    scales = conditioner.scales(identified)
    estimate = None if head is None else _estimate(head, latents, hidden_states, narrow, last_BF, scales)
    return Conditioning(residuals, record, estimate, identified=identified)


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
    """An empty image ``[B, C, H, W]`` of which ``own`` is a piece, the channels last in memory."""
    return canvas(len(own), piece.down.whole, piece.across.whole, own.shape[1], dtype=own.dtype, device=device).permute(0, 3, 1, 2)


def _canvas_like(image: torch.Tensor) -> torch.Tensor:
    """The same of an image."""
    batch, channels, height, width = image.shape
    return canvas(batch, height, width, channels, dtype=image.dtype, device=image.device).permute(0, 3, 1, 2)


def _sum(total: list[tuple[torch.Tensor, ...]], share: list[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(one + other for one, other in zip(*group)) for group in zip(total, share)]


def _put_tokens(into: torch.Tensor | None, tokens: torch.Tensor, piece: Piece, device: torch.device) -> torch.Tensor:
    """Write a piece's tokens ``[B, n, D]`` into the image ``[B, D, H, W]`` of all, which is made with the first."""
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
    """The coefficients of every cell of the image: they are few, so the network that reads them runs once."""
    statistics = None
    for piece in over:
        own = grid.statistics(hidden_states[:, :, piece.down.own, piece.across.own].to(device))
        coarse = piece.coarser(grid.cell)
        statistics = _image(own, coarse, device) if statistics is None else statistics
        coarse.put(statistics, own)
    return grid.of_cells(statistics)


def _coefficients(cells: torch.Tensor, piece: Piece, side: int) -> torch.Tensor:
    """Interpolated to the piece's own positions, ``side`` a cell, with a cell more on each side that has one."""
    around = Piece(_with_neighbours(piece.down), _with_neighbours(piece.across))
    seen = around.cut(cells)
    return around.finer(side).own(interpolate_cells(seen, (seen.shape[2] * side, seen.shape[3] * side)))


def _with_neighbours(span: Span) -> Span:
    return Span(span.start, span.size, min(1, span.start), min(1, span.whole - span.start - span.size), span.whole)
