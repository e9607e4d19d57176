"""Flow matching: a straight path from noise to an image, its velocity, and the samplers that follow it.

On the path ``z = (1 - sigma) x + sigma eps`` the velocity is ``v = eps - x``; sigma runs from 1 (noise) to 0 (image) and stays fp32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch

SOURCES = ("noise", "estimate")
STARTS = ("noise", "degraded", "estimate")
SAMPLERS = ("euler", "heun")

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class FlowMatching:
    """The path, how sigma is drawn in training, and how the path is followed at inference.

    With ``source: noise`` the path begins in pure noise (the paper; SD3, arXiv 2403.03206 §2). With ``source: estimate`` it begins in the
    estimate, noised to ``sigma_start``, and ends in the truth: ``z = x + (sigma / sigma_start) (z_start - x)``, whose velocity is
    ``eps - x + (1 / sigma_start - 1) (estimate - x)`` (posterior-mean rectified flow, arXiv 2410.00418, on SD3's scale of sigma; ours).
    With ``sigma_start: 1`` both are the same path.

    Args:
        source: Coupling in training: ``noise`` or ``estimate``.
        sigma_start: Noise level in 0..1 where a path that does not start in noise begins, in training (``estimate``) and at inference.
        start: Where inference begins: ``noise`` (sigma 1), ``degraded`` latent or ``estimate``, both noised to sigma_start (SDEdit,
            arXiv 2108.01073).
        steps: Sampler steps; 0 returns the start itself, without noise.
        sampler: ``euler`` (one evaluation a step) or ``heun`` (two, but for the last step).
        guidance: Strength g of the prompt at inference, ``v_0 + g (v - v_0)`` with ``v_0`` the velocity without it (classifier-free
            guidance, arXiv 2207.12598); 1 asks the DiT once a step, any other value twice, and needs an unconditional prompt.
        logit_mean: Mean of the normal whose sigmoid draws sigma (SD3's logit-normal).
        logit_std: Its standard deviation.
        low_sigma_fraction: Share of training samples, 0..1, whose sigma is drawn uniformly below ``low_sigma`` instead: few-step
            samplers that start from an estimate live there.
        low_sigma: Upper end of that range.
    """

    def __init__(
        self,
        source: str = "noise",
        *,
        sigma_start: float = 1.0,
        start: str = "noise",
        steps: int = 28,
        sampler: str = "euler",
        guidance: float = 1.0,
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        low_sigma_fraction: float = 0.0,
        low_sigma: float = 0.2,
    ) -> None:
        for name, value, allowed in (("source", source, SOURCES), ("sampler", sampler, SAMPLERS)):
            if value not in allowed:
                raise ValueError(f"flow {name} {value!r} is unknown; choose one of {', '.join(allowed)}")
        check_sampling(start, sigma_start, steps, guidance)
        if not 0 <= low_sigma_fraction <= 1 or logit_std < 0:
            raise ValueError(f"low_sigma_fraction={low_sigma_fraction} must be in [0, 1] and logit_std={logit_std} at least 0")
        highest = sigma_start if source == "estimate" else 1
        if not 0 < low_sigma <= highest and low_sigma_fraction > 0:
            raise ValueError(f"low_sigma={low_sigma} is outside (0, {highest}], where this path runs; lower it, or low_sigma_fraction to 0")
        self.source, self.sigma_start, self.start, self.steps, self.sampler = source, sigma_start, start, steps, sampler
        self.guidance = guidance
        self.logit_mean, self.logit_std = logit_mean, logit_std
        self.low_sigma_fraction, self.low_sigma = low_sigma_fraction, low_sigma

    def draw_sigma(self, generator: torch.Generator) -> torch.Tensor:
        """One sigma for training, a 0-d fp32 tensor in (0, 1), or in (0, sigma_start) where the path begins in the estimate."""
        # The dtype is said: under precision bf16-true Lightning makes bf16 the default of what is drawn.
        normal = torch.randn((), generator=generator, dtype=torch.float32)
        uniform, choice = torch.rand(2, generator=generator, dtype=torch.float32)
        if choice < self.low_sigma_fraction:
            return uniform * self.low_sigma
        sigma = torch.sigmoid(normal * self.logit_std + self.logit_mean)
        return sigma * self.sigma_start if self.source == "estimate" else sigma

    def interpolate(
        self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, estimate: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The point on the path at ``sigma [B]`` and its velocity, both ``[B, C, h, w]`` fp32, for ``clean`` latents and unit ``noise``.

        ``estimate`` is needed (and detached) where the source is the estimate; ValueError if it is missing.
        """
        clean, noise, sigma = clean.float(), noise.float(), sigma.float()[:, None, None, None]
        velocity = noise - clean
        if self.source == "estimate":
            if estimate is None:
                raise ValueError("flow source 'estimate' needs a conditioner with estimate: true; switch it on or use source: noise")
            velocity = velocity + (1 / self.sigma_start - 1) * (estimate.detach().float() - clean)
        return clean + sigma * velocity, velocity

    def begin(self, noise: torch.Tensor, start: str, sigma_start: float, anchor: torch.Tensor | None) -> tuple[torch.Tensor, float]:
        """The latent that sampling begins with, written over ``noise``, and its sigma; ``anchor``: the degraded latent or the estimate."""
        if start == "noise":
            return noise, 1.0
        if anchor is None:
            raise ValueError(f"start {start!r} needs a conditioner with estimate: true; use start: degraded or noise")
        return torch.lerp(anchor.float(), noise, sigma_start, out=noise), sigma_start

    def sample(self, velocity: Velocity, latents: torch.Tensor, sigma_start: float, steps: int) -> torch.Tensor:
        """Follow ``velocity(z, sigma [B])`` from ``sigma_start`` to 0 in equal steps; ``latents`` fp32 are overwritten."""
        sigmas = torch.linspace(sigma_start, 0, steps + 1, dtype=torch.float32)
        for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist()):
            slope = velocity(latents, _per_image(sigma, latents)).float()
            if self.sampler == "heun" and following > 0:
                ahead = torch.add(latents, slope, alpha=following - sigma)
                slope = (slope + velocity(ahead, _per_image(following, latents)).float()) / 2
            latents.add_(slope, alpha=following - sigma)
        return latents

    def questions(self, steps: int) -> int:
        """How often `sample` asks for a velocity."""
        return max(0, 2 * steps - 1) if self.sampler == "heun" else steps


def check_sampling(start: str, sigma_start: float, steps: int, guidance: float = 1.0) -> None:
    """Raise ValueError where sampling cannot begin at ``start`` and ``sigma_start``, go in ``steps`` or be guided so."""
    if start not in STARTS:
        raise ValueError(f"flow start {start!r} is unknown; choose one of {', '.join(STARTS)}")
    if not 0 < sigma_start <= 1:
        raise ValueError(f"flow sigma_start={sigma_start} is outside (0, 1]; to add no noise at all use steps: 0")
    if steps < 0:
        raise ValueError(f"flow steps={steps} is negative; use 0 for the start itself")
    if not 0 <= guidance < math.inf:
        raise ValueError(f"flow guidance={guidance} must be finite and at least 0; 1 is the prompt itself, 0 is without it")


def _per_image(sigma: float, latents: torch.Tensor) -> torch.Tensor:
    return torch.full((len(latents),), sigma, dtype=torch.float32, device=latents.device)


def keyed_generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by the words of ``key``: the same for the same key in any process, so ranks and workers change no sample."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
