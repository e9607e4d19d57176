"""Light estimate of the clean latent: the degraded latent plus a change of tone and a local correction. Not in the paper.

Shape legend: B images, C latent channels, F statistics, J exponents of the tone curve, H x W conditioner positions, h x w latent pixels.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import torch
from torch import nn

from mimdit.conditioner.injection import zero_initialized
from mimdit.conditioner.mim_block import FEED_FORWARDS, ChannelNorm
from mimdit.routing.router import outside_autocast, router_features

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MAX_SAMPLES = 65536


def tone_statistics(latents: torch.Tensor) -> torch.Tensor:
    """Return histogram and gradient statistics of ``latents [B, C, h, w]``: fp32 ``[B, 7 (C + 1) + C]``.

    Quantiles of each channel and of the darkest channel at each position, over at most 65,536 evenly spaced positions, and the log-std of
    differences between neighbors. Mean and spread do not separate haze from a pale scene; the dark channel (He et al. 2009), which haze
    brightens, does.
    """
    values = latents.flatten(2)[:, :, :: -(-latents[0, 0].numel() // _MAX_SAMPLES)]
    values = torch.cat([values, values.amin(dim=1, keepdim=True)], dim=1).float()
    quantiles = torch.quantile(values, values.new_tensor(QUANTILES), dim=2).permute(1, 2, 0).flatten(1)
    differences = (latents[..., 1:] - latents[..., :-1]).float()
    return torch.cat([quantiles, (differences.std(dim=(2, 3), correction=0) + 1e-4).log()], dim=1)


class ToneCurve(nn.Module):
    """Change of tone ``sum_j c_j * y^p_j`` per channel, with c computed from global statistics. Not in the paper.

    Haze and darkness are mostly changes of tone.

    Args:
        channels: Latent channels.
        dim: Channels of the hidden states whose statistics are read.
        powers: Exponents p_j, applied to ``y = (latents + 1) / 2`` clamped to 0..1: for pixel latents in -1..1. With only 0 and 1 the
            change is affine per channel, which suits any latent.
        histogram: If true, read `tone_statistics` in addition to means and log-stds.
        widths: Inner widths of the network that computes c; empty for one of ``2 dim``.
        num_blocks: Earlier blocks whose features are read besides those of the hidden states.
        grid: Positions per cell of a `ToneGrid` that adds local coefficients to c; 0 for one c for the whole image.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        powers: tuple[float, ...],
        *,
        histogram: bool = False,
        widths: tuple[int, ...] = (),
        num_blocks: int = 0,
        grid: int = 0,
    ) -> None:
        super().__init__()
        self.powers, self.histogram, self.num_blocks = tuple(powers), histogram, num_blocks
        num_statistics = 2 * dim * (num_blocks + 1) + 2 * channels + (len(QUANTILES) * (channels + 1) + channels if histogram else 0)
        num_coefficients = channels * len(powers)
        sizes = (num_statistics, *(widths or (2 * dim,)))
        layers = [layer for size in pairwise(sizes) for layer in (nn.Linear(*size), nn.SiLU())]
        self.coefficients = nn.Sequential(*layers, zero_initialized(nn.Linear(sizes[-1], num_coefficients)))
        self.grid = ToneGrid(dim, num_coefficients, grid) if grid else None

    def forward(self, latents: torch.Tensor, hidden_states: torch.Tensor, coefficients: torch.Tensor | None = None) -> torch.Tensor:
        """Return the change to add to ``latents [B, C, h, w]``, fp32 of the same shape.

        Args:
            latents: Degraded latents.
            hidden_states: Output of the last MiM block ``[B, dim, H, W]``.
            coefficients: Those of `decide`; None to decide them from ``hidden_states``, enough if no earlier blocks are read.
        """
        with outside_autocast(latents):
            shared = self.decide(latents, [router_features(hidden_states)]) if coefficients is None else coefficients
            return self.change(latents, shared if self.grid is None else shared + self.grid(hidden_states, latents.shape[2:]))

    def decide(self, latents: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the coefficients shared by all positions, fp32 ``[B, J * C, 1, 1]``; see `statistics`."""
        with outside_autocast(features[-1]):
            statistics = self.statistics(latents, features)
            return self.coefficients(statistics.to(next(self.coefficients.parameters()).dtype)).float()[..., None, None]

    def statistics(self, latents: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        """Return the input of the network that computes c, fp32 ``[B, F]``.

        Args:
            latents: Degraded latents, whose own statistics are part of the result.
            features: `router_features` before each block and, last, of the hidden states; those of the last ``num_blocks + 1`` are read.
        """
        read = features[-1 - self.num_blocks :]
        return torch.cat([*read, *(tensor.to(read[-1].device) for tensor in self._of_latents(latents))], dim=1)

    def _of_latents(self, latents: torch.Tensor) -> list[torch.Tensor]:
        return [router_features(latents), tone_statistics(latents)] if self.histogram else [router_features(latents)]

    def change(self, latents: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Return ``sum_j c_j * y^p_j`` for ``coefficients [B, J * C, h or 1, w or 1]``, fp32."""
        coefficients = coefficients.unflatten(1, (len(self.powers), -1))
        unit = ((latents.float() + 1) / 2).clamp(0, 1)
        # The floor in `_power` keeps the slope of a root finite in black regions.
        return reduce(torch.add, (coefficients[:, j] * self._power(unit, p) for j, p in enumerate(self.powers)))

    @staticmethod
    def _power(unit: torch.Tensor, exponent: float) -> torch.Tensor:
        return torch.ones_like(unit) if exponent == 0 else unit.clamp_min(1e-3) ** exponent


class ToneGrid(nn.Module):
    """Local tone coefficients, as haze grows with distance and a lamp lights only part of a night scene. Not in the paper.

    A small network reads mean and log-std of each cell and its neighbors. Its output is interpolated between cell centers, so it follows
    depth and light but draws no detail.

    Args:
        dim: Channels of the hidden states.
        num_coefficients: Output channels, zero at initialization.
        cell: Positions per cell, in each direction; divides the size of the input.
    """

    def __init__(self, dim: int, num_coefficients: int, cell: int) -> None:
        super().__init__()
        self.cell = cell
        self.network = nn.Sequential(
            nn.Conv2d(2 * dim, 2 * dim, 1),
            nn.SiLU(),
            nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, padding_mode="replicate", groups=2 * dim),
            zero_initialized(nn.Conv2d(2 * dim, num_coefficients, 1)),
        )

    def forward(self, hidden_states: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return coefficients ``[B, num_coefficients, *size]``, fp32, for hidden states ``[B, dim, H, W]``."""
        return interpolate_cells(self.of_cells(self.statistics(hidden_states)), size)

    def statistics(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return mean and log-std, ``log(sqrt(variance + 1e-4))``, of each cell: ``[B, 2 dim, H / cell, W / cell]``."""
        hidden_states = hidden_states.float()
        mean = nn.functional.avg_pool2d(hidden_states, self.cell)
        variance = (nn.functional.avg_pool2d(hidden_states.square(), self.cell) - mean.square()).clamp_min(0)
        return torch.cat([mean, (variance + 1e-4).log() / 2], dim=1)

    def of_cells(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of each cell, fp32 ``[B, num_coefficients, H / cell, W / cell]``."""
        return self.network(statistics.to(next(self.network.parameters()).dtype)).float()


def interpolate_cells(coefficients: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolate coefficients bilinearly from cell centers to ``size`` positions (height, width)."""
    return nn.functional.interpolate(coefficients, size=size, mode="bilinear", align_corners=False)


class EstimateHead(nn.Module):
    """Estimate of the clean latent from the last MiM block, as a zero-initialized change to the degraded one. Not in the paper.

    Args:
        channels: Latent channels.
        dim: Channels of the hidden states.
        patch_size: Latent pixels per position of the hidden states, in each direction.
        tone_powers: Exponents of the tone curve; empty for no tone curve.
        tone_histogram: If true, the tone curve reads `tone_statistics` too.
        tone_widths: Inner widths of the tone curve's network; empty for one of ``2 dim``.
        tone_blocks: Earlier blocks whose features the tone curve reads too.
        tone_grid: Positions per cell of a `ToneGrid`, in each direction; 0 for one tone curve for the whole image.
        feed_forward: Kind of the feed-forward; see `MiMBlock`.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        patch_size: int,
        *,
        tone_powers: tuple[float, ...] = (),
        tone_histogram: bool = False,
        tone_widths: tuple[int, ...] = (),
        tone_blocks: int = 0,
        tone_grid: int = 0,
        feed_forward: str = "gated",
    ) -> None:
        super().__init__()
        reads = {"histogram": tone_histogram, "widths": tuple(tone_widths), "num_blocks": tone_blocks}
        self.tone = ToneCurve(channels, dim, tone_powers, **reads, grid=tone_grid) if tone_powers else None
        self.norm, self.feed_forward = ChannelNorm(dim), FEED_FORWARDS[feed_forward](dim)
        self.detail = zero_initialized(nn.Conv2d(dim, channels * patch_size**2, 3, padding=1))
        self.patch_size = patch_size

    def forward(
        self,
        latents: torch.Tensor,
        hidden_states: torch.Tensor,
        coefficients: torch.Tensor | None = None,
        *,
        scales: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the estimate ``[B, C, h, w]``, fp32; at initialization it equals ``latents``.

        Args:
            latents: Degraded latents ``[B, C, h, w]``.
            hidden_states: Output of the last MiM block ``[B, dim, H, W]``.
            coefficients: Those of the tone curve; see `ToneCurve.forward`.
            scales: Factors of the tone and detail corrections (`mimdit.conditioner.identification.presence_scales`); None for 1.
        """
        tone_scale, detail_scale = (1, 1) if scales is None else scales
        estimate = self.local(latents, hidden_states, detail_scale)
        return estimate if self.tone is None else estimate + tone_scale * self.tone(latents, hidden_states, coefficients)

    def local(self, latents: torch.Tensor, hidden_states: torch.Tensor, scale: torch.Tensor | int = 1) -> torch.Tensor:
        """Return the estimate without the change of tone; each position depends on positions at most three away."""
        detail = self.detail(hidden_states + self.feed_forward(self.norm(hidden_states)))
        return latents + scale * nn.functional.pixel_shuffle(detail, self.patch_size).float()
