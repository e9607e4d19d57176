"""Inference: from degraded images of any size to restored ones. Training is in `mimdit.restorer.restorer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from mimdit.backbone.dit import DiTBackbone
from mimdit.conditioner.in_pieces import condition_in_pieces
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner
from mimdit.core.canvas import canvas, in_rows
from mimdit.core.rng import keyed_generator
from mimdit.flow import FlowMatching
from mimdit.restorer.color import match_color
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.steering import MeasuredGates, gains
from mimdit.restorer.tiling import tiled_velocity
from mimdit.routing.routing import Routing

Progress = Callable[[float], None]


def _ignore(_: object) -> None:
    pass


class InferenceMixin:
    """`restore` for a module with a backbone, a conditioner and a flow: `mimdit.Restorer`."""

    backbone: DiTBackbone
    conditioner: MoEConditioner
    flow: FlowMatching
    tile: int
    overlap: int
    seed: int
    anchor: str
    output_layer: nn.Module | None
    measured_gates: MeasuredGates | None
    device: torch.device

    def sampling_settings(self, settings: SamplingSettings | None = None, **overrides: Any) -> SamplingSettings:
        """Return ``settings``, or else this restorer's own, with ``overrides``, whose None values change nothing.

        Raises:
            ValueError: A value is unknown or out of range, or the restorer lacks what it needs: an estimate to start from, an
                unconditional prompt for guidance, or measured gates for a degradation in ``steer``.
        """
        if settings is None:
            own = {name: getattr(self.flow, name) for name in ("steps", "start", "sigma_start", "sampler", "guidance")}
            settings = SamplingSettings(**own, seed=self.seed)
        settings = replace(settings, **{name: value for name, value in overrides.items() if value is not None})
        self._check(settings)
        return settings

    def _check(self, settings: SamplingSettings) -> None:
        """Raise ValueError where this restorer lacks what ``settings`` need."""
        if settings.start == "estimate" and self.conditioner.estimate_head is None:
            raise ValueError("start 'estimate' needs a conditioner with estimate: true; use start: degraded or noise")
        if settings.guidance != 1:
            self.backbone.prompts.require_unconditional(f"guidance={settings.guidance}")
        self._gains(settings)

    def _gains(self, settings: SamplingSettings) -> torch.Tensor | None:
        """Return the factors ``[M, G]`` of the dense gates; None where nothing is steered."""
        if not settings.steer:
            return None
        return gains(settings.steer, self.conditioner.groups, len(self.conditioner.blocks), self.measured_gates)

    @apply_forward_hook  # diffusers' offloading moves the weights to the device when this is called
    def restore(
        self,
        images: torch.Tensor,
        settings: SamplingSettings | int | None = None,
        *,
        routing: Routing | None = None,
        use_residuals: bool = True,
        progress: Progress = _ignore,
        explain: Callable[[Routing], None] = _ignore,
        **overrides: Any,
    ) -> torch.Tensor:
        """Restore images of any size.

        Args:
            images: Degraded images ``[B, 3, H, W]`` in 0..1, on any device.
            settings: How to restore; None for the restorer's own settings. An integer sets only the steps, as ``steps=`` does.
            routing: Gates to use instead of those that the image decides.
            use_residuals: If false, the residuals are left out and the DiT works without steering: an ablation.
            progress: Called after each unit of work with the fraction it completed; the fractions sum to 1. One pass of a conditioner
                block counts as one DiT evaluation.
            explain: Called with the routing once the gates have decided.
            **overrides: Fields of `SamplingSettings` to change, such as ``steps=4`` or ``tile=1024``; None changes nothing.

        Returns:
            Restored images ``[B, 3, H, W]`` in 0..1, fp32, on the device of ``images``.

        Raises:
            ValueError: As for `sampling_settings`.
        """
        if isinstance(settings, int):
            settings, overrides = None, {"steps": settings} | overrides
        settings = self.sampling_settings(settings, **overrides)
        restoration = Restoration(self, images, settings, routing=routing, progress=progress)
        explain(restoration.conditioning.routing)
        return restoration.sample(use_residuals=use_residuals).to(images.device)

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning | None,
        *,
        anchor: torch.Tensor | None = None,
        guidance: float = 1.0,
        tiles_at_once: int = 1,
        progress: Progress = _ignore,
    ) -> torch.Tensor:
        """Return the DiT's velocity for latents of any size, steered by ``conditioning``; in tiles where they exceed ``self.tile``.

        Args:
            latents: Noisy latents ``[B, C, h, w]``, on any device.
            sigma: Noise levels ``[B]`` in 0..1.
            conditioning: Residuals on the whole image's tokens, on the latents' device; None for an unsteered DiT.
            anchor: Result of `anchor_of`; None for a restorer without an anchor.
            guidance: Strength of the prompt; see `DiTBackbone.velocity`.
            tiles_at_once: Tiles in one forward pass.
            progress: Called after each unit of work with the fraction of the evaluation it completed.

        Raises:
            ValueError: The restorer has an anchor and none is given, or it has none and one is given.
        """
        if (anchor is None) != (self.output_layer is None):
            given = "no anchor is given" if anchor is None else "an anchor is given"
            raise ValueError(f"{given} to a restorer with anchor: {self.anchor}; pass anchor_of(degraded, conditioning)")
        residuals, scale = None if conditioning is None else conditioning.residuals, self.conditioner.timestep_scale
        options = {"guidance": guidance, "output_layer": self.output_layer}
        if max(latents.shape[2:]) > self.tile:
            tiling = {"tile": self.tile, "overlap": self.overlap, "at_once": tiles_at_once, "device": self.device}
            return tiled_velocity(
                self.backbone, latents, sigma, residuals, scale=scale, anchor=anchor, progress=progress, **tiling, **options
            )  # fmt: skip
        place, sigma = latents.device, sigma.to(self.device)
        if residuals is not None:
            residuals = scale([residual.to(self.device) for residual in residuals], sigma)
        anchor = None if anchor is None else anchor.to(self.device)
        velocity = self.backbone.velocity(latents.to(self.device), sigma, residuals, anchor=anchor, **options)
        progress(1.0)
        return velocity.to(place)

    def anchor_of(self, degraded: torch.Tensor, conditioning: Conditioning) -> torch.Tensor | None:
        """Return the latents ``[B, C, h, w]`` that the predicted clean latent starts from; None without an anchor."""
        return {"none": None, "degraded": degraded, "estimate": conditioning.estimate}[self.anchor]


class Restoration:
    """A batch of images on its way through a restorer: encoded and conditioned when it is made, then sampled any number of times.

    Args:
        restorer: The restorer.
        images: Degraded images ``[B, 3, H, W]`` in 0..1. Those to process in pieces stay where they are; others are moved to the
            restorer's device.
        settings: Settings that fit the restorer.
        routing: Gates to use instead of those that the image decides.
        progress: As for `InferenceMixin.restore`.

    Attributes:
        degraded: Latents ``[B, C, h, w]`` of the padded images.
        conditioning: Output of the conditioner.
    """

    @torch.no_grad()
    def __init__(
        self,
        restorer: InferenceMixin,
        images: torch.Tensor,
        settings: SamplingSettings,
        *,
        routing: Routing | None = None,
        progress: Progress = _ignore,
    ) -> None:
        self.restorer, self.settings = restorer, settings
        self.area = settings.area(images)
        in_pieces = self.area is not None
        self.images = images if in_pieces else images.to(restorer.device)
        self._in_rows = in_pieces and restorer.backbone.codec.pointwise
        passes = 2 * len(restorer.conditioner.blocks)
        total = passes + settings.num_evaluations
        self._progress = lambda evaluations: progress(evaluations / total)
        self.degraded = self._encode()
        self.conditioning = self._condition(routing, lambda fraction: self._progress(fraction * passes))

    @torch.no_grad()
    def sample(self, *, use_residuals: bool = True) -> torch.Tensor:
        """Return restored images ``[B, 3, H, W]`` in 0..1, fp32; if ``use_residuals`` is false, without steering."""
        settings, restorer, degraded = self.settings, self.restorer, self.degraded
        estimate = self.conditioning.estimate
        origin = degraded if settings.start == "degraded" else estimate
        if settings.steps == 0:
            return self.decode(degraded if origin is None else origin)
        latents, sigma_start = restorer.flow.begin(self._noise(), settings.start, settings.sigma_start, origin)
        del origin
        anchor = restorer.anchor_of(degraded, self.conditioning)
        conditioning = self.conditioning if use_residuals else None
        tile_area = len(self.images) * (restorer.tile * restorer.backbone.codec.downscale) ** 2
        at_once = 1 if self.area is None else max(1, self.area // tile_area)
        options = {"anchor": anchor, "guidance": settings.guidance, "tiles_at_once": at_once, "progress": self._progress}

        def velocity(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return restorer.velocity(z, sigma, conditioning, **options)

        restored = self.decode(restorer.flow.sample(velocity, latents, sigma_start, settings.steps, settings.sampler))
        if settings.color == "none":
            return restored
        return match_color(restored, self.decode(degraded if estimate is None else estimate), settings.color)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return images of the size of the given ones, in 0..1, from padded ``latents [B, C, h, w]``."""
        backbone, images = self.restorer.backbone, self.images
        if self._in_rows:
            decoded = canvas(*images.shape, device=images.device)
            for rows in in_rows(*images.shape[2:]):
                decoded[:, :, rows] = backbone.decode(latents[:, :, rows, : images.shape[3]]).clamp(0, 1)
            return decoded
        decoded = backbone.decode(latents.to(self._codec_device(latents)))
        return decoded[..., : images.shape[2], : images.shape[3]].clamp(0, 1).to(images.device)

    def _encode(self) -> torch.Tensor:
        """Return the latents of the padded images, on the images' device."""
        backbone, images = self.restorer.backbone, self.images
        multiple = self.restorer.conditioner.multiple * backbone.codec.downscale
        if not self._in_rows:
            padded = pad_by_reflection(images, multiple)
            return backbone.encode(padded.to(self._codec_device(padded))).to(padded.device)
        down, across = (_mirrored(size, -size % multiple, images.device) for size in images.shape[2:])
        latents = canvas(len(images), backbone.codec.channels, len(down), len(across), device=images.device)
        for rows in in_rows(len(down), len(across)):
            latents[:, :, rows] = backbone.encode(images[:, :, down[rows]][..., across])
        return latents

    def _condition(self, routing: Routing | None, progress: Progress) -> Conditioning:
        """Return the conditioner's output on the degraded latents, in pieces if the settings give an area."""
        conditioner, gains_MG = self.restorer.conditioner, self.restorer._gains(self.settings)
        if self.area is None:
            conditioning = conditioner(self.degraded, routing, gains_MG=gains_MG)
            progress(1.0)
            return conditioning
        area = max(1, self.area // self.restorer.backbone.codec.downscale**2)
        return condition_in_pieces(conditioner, self.degraded, area, routing, gains_MG=gains_MG, done=progress)

    def _noise(self) -> torch.Tensor:
        """Return unit normal noise like the degraded latents, the same for each image."""
        shape, place = self.degraded.shape, self.degraded.device
        generator = keyed_generator("restore", self.settings.seed)
        noise = torch.randn(shape[1:], generator=generator, out=canvas(*shape[1:]))
        return noise[None].to(place) if len(self.degraded) == 1 else noise.to(place).repeat(len(self.degraded), 1, 1, 1)

    def _codec_device(self, tensor: torch.Tensor) -> torch.device:
        """Return the codec's device, or the device of ``tensor`` if the codec has no weights."""
        return next((weight.device for weight in self.restorer.backbone.codec.parameters()), tensor.device)


def pad_by_reflection(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Extend ``[B, 3, H, W]`` on the right and at the bottom to multiples of ``multiple``, mirrored as often as a small image needs."""
    height, width = images.shape[2:]
    down = _mirrored(height, -height % multiple, images.device)
    across = _mirrored(width, -width % multiple, images.device)
    return images[:, :, down][:, :, :, across] if len(down) > height or len(across) > width else images


def _mirrored(size: int, extra: int, device: torch.device) -> torch.Tensor:
    """Return the indices in 0..size-1 of ``size + extra`` positions: forward, then back and forth."""
    index = torch.arange(size + extra, device=device) % max(1, 2 * size - 2)
    return torch.where(index < size, index, 2 * size - 2 - index).clamp(0, size - 1)
