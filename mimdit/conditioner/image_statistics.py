"""Statistics of an image that tell how it was degraded, whatever it shows. Not in the paper.

Photographs have regular statistics, and each degradation disturbs some of them: haze lifts the darkest pixels (He et al. 2009, the dark
channel), noise fills the finest bands and blur empties them, JPEG leaves a grid of 8 pixels, rain prefers one direction, and most of them
change the distribution of locally normalized luma (Mittal et al. 2012, BRISQUE).

Shape legend: B images, N windows of an image, S statistics, Q quantiles, h x w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from mimdit.core.srgb import LUMA
from mimdit.routing.router import outside_autocast

NUM_STATISTICS = 220
"""Length S of the result for RGB images."""

WINDOW = 160
"""Side in pixels of the windows that represent a large image."""

WINDOWS = 4
"""Windows in each direction."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_LOW_QUANTILES = (0.02, 0.1, 0.3, 0.6)

_GRID = 16
"""Alignment of windows in pixels: the width of JPEG's blocks of subsampled chroma."""

_SCALES = (0.7, 1.4, 2.8, 5.6)
"""Standard deviations in pixels of the Gaussians between which the bands lie."""

_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
_ORIENTATIONS = 8
_MAX_SAMPLES = 65536


@torch.no_grad()
def image_statistics(latents: torch.Tensor) -> torch.Tensor:
    """Return the statistics ``[B, S]``, fp32, of pixel latents ``[B, 3, h, w]`` in -1..1.

    Images of more than 640 x 640 pixels are represented by 4 x 4 evenly spaced windows of `WINDOW` pixels at full resolution, so the cost
    is bounded. No gradient reaches the latents.

    Args:
        latents: Images of at least 8 x 8 pixels.
    """
    pool = _Pool(len(latents))
    cut = ((_windows(latents).float() + 1) / 2).clamp(0, 1)
    with outside_autocast(cut):
        luma = (cut * cut.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        opponent = torch.cat([luma, cut[:, 2:] - luma, cut[:, :1] - luma], dim=1)
        scales = [opponent, *(_gaussian(opponent, sigma) for sigma in _SCALES)]
        found = [
            *_tone(cut, pool),
            *_contrast(luma, pool),
            *_bands(scales, pool),
            *_noise_floor(opponent - scales[1], luma, pool),
            *_block_grid(opponent, luma, pool),
            *_directions(luma, scales[1][:, :1], pool),
            *_normalized_luma(luma, scales[2][:, :1], pool),
        ]
        return torch.cat(found, dim=1)


def _windows(images: torch.Tensor) -> torch.Tensor:
    """Return images ``[B, 3, h, w]`` as they are, or their windows ``[B * N, 3, h', w']``."""
    size = images.shape[2:]
    if math.prod(size) <= (WINDOW * WINDOWS) ** 2:
        return images
    extents = [min(WINDOW, side // _GRID * _GRID) for side in size]
    tops, lefts = (
        [(side - extent) * step // (WINDOWS - 1) // _GRID * _GRID for step in range(WINDOWS)]
        for side, extent in zip(size, extents, strict=True)
    )
    cut = [images[:, :, top : top + extents[0], left : left + extents[1]] for top in tops for left in lefts]
    return torch.stack(cut, dim=1).flatten(0, 1)


class _Pool:
    """Pooling over the windows of each of ``batch`` images; inputs are ``[B * N, C, h, w]``."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def values(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the values ``[B, C, N * h * w]`` of each image and channel."""
        return inputs.unflatten(0, (self.batch, -1)).transpose(1, 2).flatten(2)

    def mean(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return means ``[B, C]``."""
        return self.values(inputs).mean(dim=2)

    def quantiles(self, inputs: torch.Tensor, at: Sequence[float] = QUANTILES) -> torch.Tensor:
        """Return quantiles ``[B, C * Q]``, over at most 65,536 evenly spaced values."""
        values = self.values(inputs)
        values = values[:, :, :: -(-values.shape[2] // _MAX_SAMPLES)]
        return torch.quantile(values, values.new_tensor(at), dim=2).permute(1, 2, 0).flatten(1)


def _tone(images: torch.Tensor, pool: _Pool) -> list[torch.Tensor]:
    """Describe brightness, saturation, and the dark channel and its air light: haze and darkness."""
    darkest, brightest = images.amin(dim=1, keepdim=True), images.amax(dim=1, keepdim=True)
    around = [functional.max_pool2d(functional.pad(edge, (3, 3, 3, 3), mode="replicate"), 7, 1) for edge in (-darkest, brightest)]
    maps = torch.cat([images, darkest, brightest, brightest - darkest, -around[0], around[1]], dim=1)
    dark_B1n = pool.values(darkest)
    top = dark_B1n.topk(max(1, dark_B1n.shape[2] // 100), dim=2).indices
    air_BC = pool.values(images).gather(2, top.expand(-1, images.shape[1], -1)).mean(dim=2)
    brightest_air = air_BC.amax(dim=1, keepdim=True)
    transmission = 1 - dark_B1n.mean(dim=2) / brightest_air.clamp_min(0.1)
    return [pool.quantiles(maps), air_BC, brightest_air - air_BC.amin(dim=1, keepdim=True), transmission]


def _contrast(luma: torch.Tensor, pool: _Pool) -> list[torch.Tensor]:
    """Describe the luma of cells and the contrast within them."""
    deviations = [_log((_cells(luma**2, side) - _cells(luma, side) ** 2).clamp_min(0).sqrt()) for side in (8, 16)]
    return [pool.quantiles(cells) for cells in (_cells(luma, 8), *deviations)]


def _bands(scales: list[torch.Tensor], pool: _Pool) -> list[torch.Tensor]:
    """Describe energy, peakedness and skewness of the bands between scales, and the energy of the quietest cells: noise, blur and rain."""
    found = []
    for number, (finer, coarser) in enumerate(zip(scales, scales[1:])):
        band = finer - coarser
        deviation = pool.mean(band**2).sqrt()
        found += [_log(deviation), _log(pool.mean(band.abs())) - _log(deviation)]
        unit = pool.values(band[:, :1]) / (deviation[:, :1, None] + 1e-4)
        found += [(unit**3).mean(dim=2).clamp(-5, 5), (unit.clamp(-4, 4) ** 3).mean(dim=2)]
        if number < len(scales) - 2:
            found.append(_log(pool.quantiles(_cells(band**2, 8).clamp_min(0).sqrt(), _LOW_QUANTILES)))
    return found


def _noise_floor(finest: torch.Tensor, luma: torch.Tensor, pool: _Pool) -> list[torch.Tensor]:
    """Describe correlations of the finest band between neighbors, also in the quietest quarter, and its energy by brightness: noise."""
    energy = pool.mean(finest**2) + 1e-7
    found = [pool.mean(_product(finest, *lag)) / energy for lag in _LAGS]
    cells = pool.values(_cells(finest**2, 8))
    quiet = cells.topk(max(1, cells.shape[2] // 4), dim=2, largest=False).indices
    for down, across in _LAGS[:2]:
        product = functional.pad(_product(finest, down, across), (across, 0, down, 0))
        found.append(pool.values(_cells(product, 8)).gather(2, quiet).mean(dim=2) / (cells.gather(2, quiet).mean(dim=2) + 1e-7))
    by_brightness = pool.values(_cells(luma, 8)).argsort(dim=2)
    deviations = _log(cells[:, :1].sqrt()).gather(2, by_brightness)
    for third in deviations.tensor_split(3, dim=2):
        third = third if third.shape[2] else deviations
        found.append(torch.quantile(third, 0.2, dim=2))
    return found


def _block_grid(opponent: torch.Tensor, luma: torch.Tensor, pool: _Pool) -> list[torch.Tensor]:
    """Describe the period of 8 pixels (16 for chroma) in the differences between neighbors, and how many are nearly zero: JPEG."""
    found = []
    for axis in (3, 2):
        profile = opponent.diff(dim=axis).abs().mean(dim=5 - axis).unflatten(0, (pool.batch, -1)).mean(dim=1)  # [B, 3, w - 1 or h - 1]
        profile = functional.pad(profile, (0, max(0, _GRID - profile.shape[2])), mode="replicate")  # images of 8 or 16 pixels
        for period, kept in ((8, slice(None)), (_GRID, slice(1, None))):
            phases = profile[:, kept, : profile.shape[2] // period * period].unflatten(2, (-1, period)).mean(dim=2)
            phases = (phases / (phases.mean(dim=2, keepdim=True) + 1e-5)).sort(dim=2).values
            found += [phases[:, :, -1]] if period > 8 else [phases[:, :, place] for place in (-1, -2, 0)]
    steps = luma.diff(dim=3).abs()
    return [*found, *(pool.mean((steps < limit / 255).float()) for limit in (0.5, 1.5))]


def _directions(luma: torch.Tensor, smooth: torch.Tensor, pool: _Pool) -> list[torch.Tensor]:
    """Describe how the gradients' energy is distributed over directions: rain and motion."""
    across = smooth[:, :, 1:-1, 2:] - smooth[:, :, 1:-1, :-2]
    down = smooth[:, :, 2:, 1:-1] - smooth[:, :, :-2, 1:-1]
    energy, angle = across**2 + down**2, torch.atan2(down, across) % math.pi
    nearest = (angle / (math.pi / _ORIENTATIONS)).round() % _ORIENTATIONS
    shares = torch.cat([pool.mean(energy * (nearest == place)) for place in range(_ORIENTATIONS)], dim=1)
    shares = shares / (shares.sum(dim=1, keepdim=True) + 1e-9)
    entropy = -(shares * _log(shares)).sum(dim=1, keepdim=True)
    found = [shares, _log(shares.amax(dim=1, keepdim=True)), entropy]
    height, width = luma.shape[2:]
    for y, x in _NEIGHBORS:
        ahead = luma[:, :, 1 + y : height - 1 + y, 1 + x : width - 1 + x]
        behind = luma[:, :, 1 - y : height - 1 - y, 1 - x : width - 1 - x]
        found.append(_log(pool.mean((ahead + behind - 2 * luma[:, :, 1:-1, 1:-1]).abs())))
    return found


def _normalized_luma(luma: torch.Tensor, mean: torch.Tensor, pool: _Pool) -> list[torch.Tensor]:
    """Describe luma divided by its local deviation: its spread, tails and skewness, and the products of neighbors."""
    deviation = (_gaussian(luma**2, _SCALES[1]) - mean**2).clamp_min(0).sqrt()
    normalized = (luma - mean) / (deviation + 2 / 255)
    square = pool.mean(normalized**2)
    found = [pool.mean(normalized.abs()), square, _log(pool.mean(normalized**4)) - 2 * _log(square), pool.mean(normalized**3)]
    return found + [pool.mean(_product(normalized, *neighbor)) for neighbor in _NEIGHBORS]


def _product(values: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """Return the products of values and those ``down`` and ``across`` pixels away, where both exist."""
    height, width = values.shape[2:]
    ahead = values[:, :, down:, max(0, across) : width + min(0, across)]
    return ahead * values[:, :, : height - down, max(0, -across) : width - max(0, across)]


def _cells(values: torch.Tensor, side: int) -> torch.Tensor:
    """Return means of cells, of the whole where it is smaller than a cell."""
    return functional.avg_pool2d(values, [min(side, extent) for extent in values.shape[2:]])


def _log(values: torch.Tensor) -> torch.Tensor:
    return (values + 1e-4).log()


def _gaussian(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return images after a Gaussian cut off at three standard deviations, edges replicated."""
    reach, channels = max(1, round(3 * sigma)), images.shape[1]
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    padded = functional.conv2d(padded, kernel[:, :, None, :], groups=channels)
    return functional.conv2d(padded, kernel[:, :, :, None], groups=channels)
