"""What the conditioner says of an image too large to be worked on in one piece: band by band, block by block, the same to rounding.

Everything that a gate or an expert reads of the whole image is gathered from all bands, at full resolution, before any band goes through
the block: a smaller copy of the image would hide noise and blur. So each block passes over the bands twice. Between blocks, hidden states
lie where the latents do, large ones in files (`mimdit.canvas`); only a band at a time is on the conditioner's device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mimdit.canvas import canvas
from mimdit.conditioner.band import Band, bands
from mimdit.conditioner.estimate import EstimateHead, interpolate_cells
from mimdit.conditioner.experts import SwinAttention
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner
from mimdit.routing.router import PooledFeatures, outside_autocast
from mimdit.routing.routing import Gates, Routing


@torch.no_grad()
def condition_in_bands(conditioner: MoEConditioner, latents: torch.Tensor, area: int, routing: Routing | None = None) -> Conditioning:
    """`MoEConditioner.forward` for ``latents [B, C, h, w]`` on any device, with about ``area`` latent pixels at a time on its own. (ours)

    Residuals and estimate are where the latents are. Borders lie between Swin windows, and each band sees as much of its neighbours as
    windows and filters reach, so that only the order of sums differs from one piece.

    Raises:
        ValueError: The size is no multiple of the conditioner's.
    """
    conditioner.check_size(latents)
    height, width = (size // conditioner.patch_size for size in latents.shape[2:])
    grid = {"area": max(1, area // conditioner.patch_size**2 // len(latents)), "multiple": conditioner.multiple // conditioner.patch_size}
    narrow = bands(height, width, **grid, halo=2)
    wide = bands(height, width, **grid, halo=SwinAttention.window * conditioner.moe_stride)

    hidden_states, pooled = _embed(conditioner, latents, narrow)
    inter, intra, features, residuals = [], [], [], []
    for index, (block, projection) in enumerate(zip(conditioner.blocks, conditioner.projections)):
        features.append(pooled.features().to(conditioner.device))
        decided = block.inter_moe.route(features[-1])
        if routing is not None:
            decided = tuple(gates.map(lambda tensor, m=index: tensor[m]) for gates in (routing.inter, routing.intra))
        inter.append(decided[0])
        intra.append(decided[1])
        statistics = _sum_over_bands(block.statistics(band.cut(hidden_states).to(conditioner.device), decided[1], band) for band in wide)
        residual, pooled = None, PooledFeatures()
        for band, piece in _pieces(hidden_states, wide):
            own = band.own(block.transform(piece.to(conditioner.device), *decided, statistics))
            hidden_states[:, :, band.top : band.bottom] = own
            pooled.add(own)
            residual = _put_tokens(residual, projection(own), band, hidden_states.device)
        residuals.append(residual)
    record = conditioner.record(Gates.stack(inter), Gates.stack(intra), torch.stack(features))
    head = conditioner.estimate_head
    estimate = None if head is None else _estimate(head, latents, hidden_states, narrow, pooled.features().to(conditioner.device))
    return Conditioning(residuals, record, estimate)


def _embed(conditioner: MoEConditioner, latents: torch.Tensor, over: list[Band]) -> tuple[torch.Tensor, PooledFeatures]:
    hidden_states, pooled = None, PooledFeatures()
    for band in over:
        own = band.own(conditioner.embed_patches(band.finer(conditioner.patch_size).cut(latents).to(conditioner.device)))
        if hidden_states is None:
            shape = (len(own), band.height, own.shape[3], own.shape[1])  # the channels last in memory
            hidden_states = canvas(*shape, dtype=own.dtype, device=latents.device).permute(0, 3, 1, 2)
        hidden_states[:, :, band.top : band.bottom] = own
        pooled.add(own)
    return hidden_states, pooled


def _pieces(image: torch.Tensor, over: list[Band]) -> Iterator[tuple[Band, torch.Tensor]]:
    """Each band's piece as it was before the bands above it were written."""
    above = image[:, :, :0]
    for band in over:
        piece = torch.cat([above, image[:, :, band.top : band.bottom + band.below]], dim=2)
        above = image[:, :, band.bottom - band.below : band.bottom].clone()
        yield band, piece


def _sum_over_bands(shares: Iterator[list[tuple[torch.Tensor, ...]]]) -> list[tuple[torch.Tensor, ...]]:
    total = next(shares)
    for share in shares:
        total = [tuple(one + other for one, other in zip(*group)) for group in zip(total, share)]
    return total


def _put_tokens(into: torch.Tensor | None, tokens: torch.Tensor, band: Band, device: torch.device) -> torch.Tensor:
    """Write a band's tokens ``[B, n, D]`` into those of the image, which are made with the first."""
    per_row = tokens.shape[1] / band.rows
    if into is None:
        into = canvas(len(tokens), round(band.height * per_row), tokens.shape[2], dtype=tokens.dtype, device=device)
    into[:, round(band.top * per_row) : round(band.bottom * per_row)] = tokens
    return into


def _estimate(
    head: EstimateHead, latents: torch.Tensor, hidden_states: torch.Tensor, over: list[Band], features_BF: torch.Tensor
) -> torch.Tensor:
    estimate, tone, device = canvas(*latents.shape, device=latents.device), head.tone, features_BF.device
    if tone is not None:
        with outside_autocast(features_BF):
            everywhere = tone.coefficients(tone.statistics(latents, features_BF))[..., None, None]
            cells = None if tone.grid is None else _cells(tone.grid, hidden_states, over, device)
    for band in over:
        fine = band.finer(head.patch_size)
        piece = fine.cut(latents).to(device)
        local = fine.own(head.local(piece, band.cut(hidden_states).to(device)))
        if tone is not None:
            with outside_autocast(features_BF):
                here = 0 if cells is None else _coefficients(cells, fine, latents.shape[3], tone.grid.cell * head.patch_size)
                local = local + tone.change(fine.own(piece), everywhere + here)
        estimate[:, :, fine.top : fine.bottom] = local
    return estimate


def _cells(grid: torch.nn.Module, hidden_states: torch.Tensor, over: list[Band], device: torch.device) -> torch.Tensor:
    """The coefficients of every cell of the image: they are few, so the network that reads them runs once."""
    own = (hidden_states[:, :, band.top : band.bottom].to(device) for band in over)
    return grid.network(torch.cat([grid.statistics(rows) for rows in own], dim=2))


def _coefficients(cells: torch.Tensor, fine: Band, width: int, side: int) -> torch.Tensor:
    """Interpolated to the band's own rows, with a row of cells more on each side that has one."""
    top, bottom = fine.top // side, fine.bottom // side
    above, below = min(1, top), min(1, cells.shape[2] - bottom)
    piece = cells[:, :, top - above : bottom + below]
    spread = interpolate_cells(piece, (piece.shape[2] * side, width))
    return spread[:, :, above * side : (above + bottom - top) * side]
