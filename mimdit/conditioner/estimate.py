"""The light estimate of the clean latent: the degraded latent, a global change of tone, and a local correction."""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.mim_block import ChannelNorm, FeedForward
from mimdit.routing.router import outside_autocast, router_features

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MOST_SAMPLES = 65536


def tone_statistics(latents: torch.Tensor) -> torch.Tensor:
    """What a histogram and a gradient tell of the tone of ``latents [B, C, h, w]``: fp32 ``[B, 7 (C + 1) + C]``.

    Quantiles of each channel and of the darkest channel at each position, and the log-std of the differences between neighbours. Mean and
    spread alone cannot tell haze from a pale scene: it is the lack of anything dark, the dark channel of He et al. (2009), that gives it
    away. Quantiles are of at most 65,536 evenly spaced positions.
    """
    values = torch.cat([latents, latents.amin(dim=1, keepdim=True)], dim=1).float().flatten(2)
    values = values[:, :, :: -(-values.shape[2] // _MOST_SAMPLES)]
    quantiles = torch.quantile(values, values.new_tensor(QUANTILES), dim=2).permute(1, 2, 0).flatten(1)
    differences = (latents[..., 1:] - latents[..., :-1]).float()
    return torch.cat([quantiles, (differences.std(dim=(2, 3), correction=0) + 1e-4).log()], dim=1)


class ToneCurve(nn.Module):
    """Add ``sum_j c_j * y^p_j`` per channel, with c read from global statistics: haze and darkness are mostly tone. (ours)

    Args:
        channels: Latent channels.
        dim: Channels of the hidden states whose statistics are read.
        powers: The exponents p_j, applied to ``y = (latents + 1) / 2`` clamped to 0..1: made for pixel latents in -1..1. With only 0
            and 1 it is an affine change of each channel, fit for any latent.
        histogram: Whether it reads `tone_statistics` beside means and spreads.
    """

    def __init__(self, channels: int, dim: int, powers: tuple[float, ...], *, histogram: bool = False) -> None:
        super().__init__()
        self.powers, self.histogram = tuple(powers), histogram
        num_statistics = 2 * dim + 2 * channels + (len(QUANTILES) * (channels + 1) + channels if histogram else 0)
        self.coefficients = nn.Sequential(nn.Linear(num_statistics, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, channels * len(powers)))
        nn.init.zeros_(self.coefficients[-1].weight)
        nn.init.zeros_(self.coefficients[-1].bias)

    def forward(self, latents: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """The change to ``latents [B, C, h, w]``, fp32."""
        with outside_autocast(latents):
            statistics = [router_features(hidden_states), router_features(latents)]
            if self.histogram:
                statistics.append(tone_statistics(latents))
            coefficients = self.coefficients(torch.cat(statistics, dim=1)).unflatten(1, (len(self.powers), -1))[..., None, None]
            unit = ((latents.float() + 1) / 2).clamp(0, 1)
            # The floor keeps the slope of a root finite in black regions.
            return sum(coefficients[:, j] * self._power(unit, p) for j, p in enumerate(self.powers))

    @staticmethod
    def _power(unit: torch.Tensor, exponent: float) -> torch.Tensor:
        return torch.ones_like(unit) if exponent == 0 else unit.clamp_min(1e-3) ** exponent


class EstimateHead(nn.Module):
    """Predict the clean latent from the last MiM block's output, as a zero-initialised change of the degraded latent. (ours)

    Args:
        channels: Latent channels.
        dim: Channels of the hidden states.
        patch_size: Latent pixels per position of the hidden states, in each direction.
        tone_powers: Exponents of the global tone change; empty for none.
        tone_histogram: Whether the tone change reads the histogram too.
    """

    def __init__(
        self, channels: int, dim: int, patch_size: int, *, tone_powers: tuple[float, ...] = (), tone_histogram: bool = False
    ) -> None:
        super().__init__()
        self.tone = ToneCurve(channels, dim, tone_powers, histogram=tone_histogram) if tone_powers else None
        self.norm, self.feed_forward = ChannelNorm(dim), FeedForward(dim)
        self.detail = nn.Conv2d(dim, channels * patch_size**2, 3, padding=1)
        nn.init.zeros_(self.detail.weight)
        nn.init.zeros_(self.detail.bias)
        self.patch_size = patch_size

    def forward(self, latents: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Estimate ``[B, C, h, w]`` in fp32; at initialisation it is ``latents`` itself."""
        detail = self.detail(hidden_states + self.feed_forward(self.norm(hidden_states)))
        estimate = latents + nn.functional.pixel_shuffle(detail, self.patch_size).float()
        return estimate if self.tone is None else estimate + self.tone(latents, hidden_states)
