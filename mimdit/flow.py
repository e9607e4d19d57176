"""Flow matching: a straight path from noise to an image, its velocity, and the samplers that follow it.

On the path ``z = (1 - sigma) x + sigma eps`` the velocity is ``v = eps - x``; sigma runs from 1 (noise) to 0 (image) and stays fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from mimdit.core.rng import draw_normals, keyed_generator, send

SOURCES = ("noise", "estimate")
STARTS = ("noise", "degraded", "estimate")
SAMPLERS = ("euler", "heun")

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OnStep = Callable[[int, float, torch.Tensor], bool]


class FlowMatching:
    """The path between noise and image, the draw of sigma in training, and the default sampling at inference.

    With ``source: noise`` the path begins in pure noise (the paper; SD3, arXiv 2403.03206 §2). With ``source: estimate`` it begins in the
    estimate, noised to ``sigma_start``, and ends in the clean latent: ``z = x + (sigma / sigma_start) (z_start - x)``, with the velocity
    ``eps - x + (1 / sigma_start - 1) (estimate - x)`` (posterior-mean rectified flow, arXiv 2410.00418, on SD3's scale of sigma). Not in
    the paper. With ``sigma_start: 1`` both are the same path.

    Args:
        source: Coupling in training: ``noise`` or ``estimate``.
        sigma_start: Noise level in (0, 1] at which a path that does not start in noise begins, in training (``estimate``) and inference.
        start: Where inference begins: ``noise`` (sigma 1), or the ``degraded`` latent or the ``estimate``, both noised to sigma_start
            (SDEdit, arXiv 2108.01073).
        steps: Sampler steps, at least 0. 0 does not run the DiT: it returns the degraded image for ``start: degraded``, otherwise the
            estimate, or the degraded image without an estimate head.
        sampler: ``euler`` (one evaluation per step) or ``heun`` (two, but one in the last step).
        guidance: Strength g of the prompt at inference, ``v_0 + g (v - v_0)`` with ``v_0`` the velocity without the prompt (classifier-free
            guidance, arXiv 2207.12598). At 1 each evaluation runs the DiT once; at any other value twice, and an unconditional prompt is
            needed.
        logit_mean: Mean of the normal distribution whose sigmoid is sigma (SD3's logit-normal).
        logit_std: Its standard deviation, at least 0.
        low_sigma_fraction: Share of training samples, 0..1, whose sigma is drawn uniformly below ``low_sigma`` instead: few-step
            samplers that start from an estimate work there.
        low_sigma: Upper end of that range, above 0 and at most where the path begins.

    Raises:
        ValueError: A value is unknown or out of range.
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
        if source not in SOURCES:
            raise ValueError(f"flow source {source!r} is unknown; choose one of {', '.join(SOURCES)}")
        check_sampling(steps=steps, start=start, sigma_start=sigma_start, sampler=sampler, guidance=guidance)
        if not 0 <= low_sigma_fraction <= 1:
            raise ValueError(f"low_sigma_fraction={low_sigma_fraction} is outside 0..1; 0 switches it off")
        if logit_std < 0:
            raise ValueError(f"logit_std={logit_std} is negative; SD3 uses 1")
        highest = sigma_start if source == "estimate" else 1
        if not 0 < low_sigma <= highest and low_sigma_fraction > 0:
            raise ValueError(f"low_sigma={low_sigma} is outside (0, {highest}], where this path runs; lower it, or low_sigma_fraction to 0")
        self.source, self.sigma_start, self.start, self.steps, self.sampler = source, sigma_start, start, steps, sampler
        self.guidance = guidance
        self.logit_mean, self.logit_std = logit_mean, logit_std
        self.low_sigma_fraction, self.low_sigma = low_sigma_fraction, low_sigma

    def draw_sigma(self, generator: torch.Generator) -> torch.Tensor:
        """Draw one sigma for training, a 0-d fp32 tensor in (0, 1), or in (0, sigma_start) where the path begins in the estimate."""
        # Explicit dtypes: under precision bf16-true Lightning makes bf16 the default.
        normal = torch.randn((), generator=generator, dtype=torch.float32)
        uniform, choice = torch.rand(2, generator=generator, dtype=torch.float32)
        sigma = torch.sigmoid(normal * self.logit_std + self.logit_mean)
        sigma = sigma * self.sigma_start if self.source == "estimate" else sigma
        return torch.where(choice < self.low_sigma_fraction, uniform * self.low_sigma, sigma)  # no branch: shapes have no values

    def interpolate(
        self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, estimate: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the point on the path at ``sigma [B]`` and its velocity, both ``[B, C, h, w]`` fp32.

        Args:
            clean: Clean latents ``[B, C, h, w]``.
            noise: Unit normal noise of the same shape.
            sigma: Noise levels ``[B]`` in 0..1.
            estimate: Estimates of the clean latents, detached here; needed where ``source`` is ``estimate``.

        Raises:
            ValueError: The estimate is needed and missing.
        """
        clean, noise, sigma = clean.float(), noise.float(), sigma.float()[:, None, None, None]
        velocity = noise - clean
        if self.source == "estimate":
            if estimate is None:
                raise ValueError("flow source 'estimate' needs a conditioner with estimate: true; switch it on or use source: noise")
            velocity = velocity + (1 / self.sigma_start - 1) * (estimate.detach().float() - clean)
        return clean + sigma * velocity, velocity

    def begin(self, noise: torch.Tensor, start: str, sigma_start: float, origin: torch.Tensor | None) -> tuple[torch.Tensor, float]:
        """Return the latent that sampling begins with, written over ``noise [B, C, h, w]``, and its sigma.

        ``origin`` is the degraded latent or the estimate; with ``start: noise`` it is not used.

        Raises:
            ValueError: ``start`` needs an origin and there is none.
        """
        if start == "noise":
            return noise, 1.0
        if origin is None:
            raise ValueError(f"start {start!r} needs a conditioner with estimate: true; use start: degraded or noise")
        return torch.lerp(origin.float(), noise, sigma_start, out=noise), sigma_start

    def sample(
        self,
        velocity: Velocity,
        latents: torch.Tensor,
        sigma_start: float,
        steps: int,
        sampler: str | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> torch.Tensor:
        """Follow ``velocity(z, sigma [B])`` from ``sigma_start`` to 0 in equal steps; fp32 ``latents [B, C, h, w]`` are overwritten.

        Args:
            velocity: Velocity for latents and noise levels.
            latents: Where to begin.
            sigma_start: Noise level of ``latents``.
            steps: Number of steps.
            sampler: ``euler`` or ``heun``; None for the flow's own.
            on_step: Called after each step with its index, the noise level that the step began at, and the latents, which it may overwrite
                in place. Sampling ends there if it returns false.
        """
        sampler = self.sampler if sampler is None else sampler
        sigmas = torch.linspace(sigma_start, 0, steps + 1, dtype=torch.float32)
        for step, (sigma, following) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist())):
            slope = velocity(latents, _per_image(sigma, latents)).float()
            if sampler == "heun" and following > 0:
                ahead = torch.add(latents, slope, alpha=following - sigma)
                slope = (slope + velocity(ahead, _per_image(following, latents)).float()) / 2
            latents.add_(slope, alpha=following - sigma)
            if on_step is not None and not on_step(step, sigma, latents):
                break
        return latents


def num_evaluations(steps: int, sampler: str) -> int:
    """Return the number of velocities that `FlowMatching.sample` evaluates."""
    return max(0, 2 * steps - 1) if sampler == "heun" else steps


def check_sampling(*, steps: int, start: str, sigma_start: float, sampler: str, guidance: float) -> None:
    """Check the settings that a flow and `mimdit.restorer.sampling.SamplingSettings` share.

    Raises:
        ValueError: A value is unknown or out of range.
    """
    for name, value, allowed in (("sampler", sampler, SAMPLERS), ("start", start, STARTS)):
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is unknown; choose one of {', '.join(allowed)}")
    if not 0 < sigma_start <= 1:
        raise ValueError(f"sigma_start={sigma_start} is outside (0, 1]; to add no noise at all use steps: 0")
    if steps < 0:
        raise ValueError(f"steps={steps} is negative; use 0 for the start itself")
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance={guidance} must be finite and at least 0; 1 is the prompt itself, 0 is without it")


def draw_path(flow: FlowMatching, latents: torch.Tensor, draws: list[str], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noise shaped like ``latents [B, C, h, w]`` and ``sigma [B]``, both fp32, keyed by the seed and each image's name in ``draws``.

    A sample does not depend on ranks or on resuming.
    """
    generators = [keyed_generator(seed, draw) for draw in draws]
    sigma = torch.stack([flow.draw_sigma(generator) for generator in generators])
    return draw_normals(latents.shape[1:], generators, latents.device), send(sigma, latents.device)


def _per_image(sigma: float, latents: torch.Tensor) -> torch.Tensor:
    return torch.full((len(latents),), sigma, dtype=torch.float32, device=latents.device)
