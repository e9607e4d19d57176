"""The conditioner on an image too large for one pass: piece by piece and block by block, equal to one pass up to rounding.

All statistics of the whole image that a block's gates and experts read are accumulated over the pieces, at full resolution, before any
piece goes through the block: a smaller copy of the image would hide noise and blur. Each block therefore passes over the pieces twice.
Between blocks the hidden states stay on the latents' device, large ones in files (`mimdit.core.canvas`); only one piece at a time is on the
conditioner's device.

Shape legend: M MiM blocks, B images, C channels, N tokens, D token channels, G expert groups, F router features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import torch

from mimdit.conditioner.estimate import EstimateHead, ToneCurve, ToneGrid, interpolate_cells
from mimdit.conditioner.experts import SwinAttention
from mimdit.conditioner.mim_block import MiMBlock
from mimdit.conditioner.moe_conditioner import Conditioning, Decisions, MoEConditioner
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
    decisions: Decisions | None = None,
    progress: Callable[[float], None] = lambda share: None,
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
        decisions: As for `MoEConditioner.forward`.
        progress: Called after each unit of work with its fraction of the total; the fractions sum to 1.

    Raises:
        ValueError: The latents' height or width is not a multiple of ``conditioner.multiple``.
    """
    conditioner.check_size(latents)
    if decisions is not None:
        routing = decisions.routing if routing is None else routing
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
        statistics = _statistics(block, hidden_states, gates[1], wide, conditioner.device, partial(progress, share))
        residual, pooled = _Assembly(hidden_states.device), PooledFeatures()
        for piece in wide:
            own = piece.own(block.transform(piece.cut(hidden_states).to(conditioner.device), *gates, statistics))
            piece.put(ahead, own)
            pooled.add(own)
            residual.put_tokens(piece.coarser(conditioner.fold), projection(own))
            progress(share)
        hidden_states, ahead = ahead, hidden_states
        residuals.append(residual.image.flatten(2).transpose(1, 2))
    identified, tone = conditioner.decide_for(latents, [*features, pooled.features().to(conditioner.device)], decisions)
    head, scales = conditioner.estimate_head, conditioner.scales(identified)
    estimate = None if head is None else _estimate(head, latents, hidden_states, narrow, tone, scales, conditioner.device)
    routing = conditioner.record(inter, intra, torch.stack(features))
    return Conditioning(residuals, routing, estimate, identified=identified, tone=tone)


class _Assembly:
    """Image ``[B, C, H, W]`` that is put together from pieces, channels last in memory; the first piece sets its channels and dtype."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._image: torch.Tensor | None = None

    @property
    def image(self) -> torch.Tensor:
        assert self._image is not None, "no piece was put"
        return self._image

    def put(self, piece: Piece, own: torch.Tensor) -> None:
        """Write a piece's own positions."""
        if self._image is None:
            shape = (len(own), piece.down.whole, piece.across.whole, own.shape[1])
            self._image = canvas(*shape, dtype=own.dtype, device=self._device).permute(0, 3, 1, 2)
        piece.put(self._image, own)

    def put_tokens(self, piece: Piece, tokens: torch.Tensor) -> None:
        """Write a piece's own tokens ``[B, n, D]``, row by row."""
        self.put(piece, tokens.transpose(1, 2).unflatten(2, (piece.down.size, piece.across.size)))


def _embed(conditioner: MoEConditioner, latents: torch.Tensor, over: list[Piece]) -> tuple[torch.Tensor, PooledFeatures]:
    hidden_states, pooled = _Assembly(latents.device), PooledFeatures()
    for piece in over:
        own = piece.own(conditioner.embed_patches(piece.finer(conditioner.patch_size).cut(latents).to(conditioner.device)))
        hidden_states.put(piece, own)
        pooled.add(own)
    return hidden_states.image, pooled


def _canvas_like(image: torch.Tensor) -> torch.Tensor:
    """Allocate an image of the same shape and type, channels last in memory."""
    batch, channels, height, width = image.shape
    return canvas(batch, height, width, channels, dtype=image.dtype, device=image.device).permute(0, 3, 1, 2)


def _statistics(
    block: MiMBlock, hidden_states: torch.Tensor, intra: Gates, over: list[Piece], device: torch.device, progress: Callable[[], None]
) -> list[tuple[torch.Tensor, ...]]:
    """Return the global statistics that the experts of each group read, summed over all pieces."""

    def of(piece: Piece) -> list[tuple[torch.Tensor, ...]]:
        contribution = block.statistics(piece.cut(hidden_states).to(device), intra, piece)
        progress()
        return contribution

    return reduce(_sum, map(of, over))


def _sum(total: list[tuple[torch.Tensor, ...]], share: list[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(one + other for one, other in zip(*group)) for group in zip(total, share)]


def _estimate(
    head: EstimateHead,
    latents: torch.Tensor,
    hidden_states: torch.Tensor,
    over: list[Piece],
    coefficients: torch.Tensor | None,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
    device: torch.device,
) -> torch.Tensor:
    tone_scale, detail_scale = (1, 1) if scales is None else scales
    estimate = canvas(*latents.shape, device=latents.device)
    tone = None
    if head.tone is not None:
        assert coefficients is not None
        tone = _Tone(head.tone, hidden_states, over, coefficients)
    for piece in over:
        fine = piece.finer(head.patch_size)
        seen = fine.cut(latents).to(device)
        local = fine.own(head.local(seen, piece.cut(hidden_states).to(device), detail_scale))
        if tone is not None:
            local = local + tone_scale * tone.change(fine.own(seen), piece, head.patch_size)
        fine.put(estimate, local)
    return estimate


class _Tone:
    """Tone curve with the coefficients of a whole image: those of all positions, and those of the cells of a grid, if there is one."""

    def __init__(self, tone: ToneCurve, hidden_states: torch.Tensor, over: list[Piece], coefficients: torch.Tensor) -> None:
        self._curve, self._everywhere = tone, coefficients
        with outside_autocast(coefficients):
            self._grid = None if tone.grid is None else (_cells(tone.grid, hidden_states, over, coefficients.device), tone.grid.cell)

    def change(self, latents: torch.Tensor, piece: Piece, patch_size: int) -> torch.Tensor:
        """Return the change to add to a piece's own ``latents``, ``patch_size`` a side for each position of ``piece``."""
        with outside_autocast(latents):
            coefficients = self._everywhere
            if self._grid is not None:
                cells, size = self._grid
                coefficients = coefficients + _interpolated(cells, piece.coarser(size), size * patch_size)
            return self._curve.change(latents, coefficients)


def _cells(grid: ToneGrid, hidden_states: torch.Tensor, over: list[Piece], device: torch.device) -> torch.Tensor:
    """Return the coefficients of all cells; cells are few, so the network runs once for the whole image."""
    statistics = _Assembly(device)
    for piece in over:
        statistics.put(piece.coarser(grid.cell), grid.statistics(hidden_states[:, :, piece.down.own, piece.across.own].to(device)))
    return grid.of_cells(statistics.image)


def _interpolated(cells: torch.Tensor, piece: Piece, side: int) -> torch.Tensor:
    """Interpolate the cells to the piece's own positions, ``side`` per cell, with one neighbor cell on each inner side."""
    around = Piece(_with_neighbors(piece.down), _with_neighbors(piece.across))
    seen = around.cut(cells)
    return around.finer(side).own(interpolate_cells(seen, (seen.shape[2] * side, seen.shape[3] * side)))


def _with_neighbors(span: Span) -> Span:
    return Span(span.start, span.size, min(1, span.start), min(1, span.whole - span.start - span.size), span.whole)
