"""Inference: from degraded images of any size to restored ones. A training step is in `mimdit.restorer.losses`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mimdit.conditioner.in_pieces import condition_in_pieces
from mimdit.conditioner.moe_conditioner import Conditioning, Decisions
from mimdit.core.canvas import canvas, in_rows
from mimdit.core.rng import keyed_generator
from mimdit.flow import OnStep
from mimdit.restorer.caution import shares
from mimdit.restorer.color import match_color
from mimdit.restorer.correction import corrected
from mimdit.restorer.prompting import prompts_for
from mimdit.restorer.sampling import SamplingSettings
from mimdit.routing.routing import Routing

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer

Progress = Callable[[float], None]


def ignore(_: object) -> None:
    """Do nothing with a report of progress or with decisions."""


class Restoration:
    """A batch of images on its way through a restorer: encoded and conditioned when it is made, then sampled any number of times.

    Args:
        restorer: The restorer.
        images: Degraded images ``[B, 3, H, W]`` in 0..1. Those to process in pieces stay where they are; others are moved to the
            restorer's device.
        settings: Settings that fit the restorer.
        routing: Gates to use instead of those that the image decides.
        decisions: Gates and tone to use instead of those that the image decides; see `mimdit.restorer.sequence`.
        original: Images to return to where ``caution`` leaves the correction out; None for ``images``.
        progress: As for `Restorer.restore`.

    Attributes:
        degraded: Latents ``[B, C, h, w]`` of the padded images.
        conditioning: Output of the conditioner.
    """

    @torch.no_grad()
    def __init__(
        self,
        restorer: Restorer,
        images: torch.Tensor,
        settings: SamplingSettings,
        *,
        routing: Routing | None = None,
        decisions: Decisions | None = None,
        original: torch.Tensor | None = None,
        progress: Progress = ignore,
    ) -> None:
        self.restorer, self.settings, self.original = restorer, settings, original
        self.area = settings.area(images)
        in_pieces = self.area is not None
        self.images = images if in_pieces else images.to(restorer.device)
        self._in_rows = in_pieces and restorer.backbone.codec.pointwise
        passes = 2 * len(restorer.conditioner.blocks)
        total = passes + settings.num_evaluations
        self._progress = lambda evaluations: progress(evaluations / total)
        self.degraded = self._encode()
        self.conditioning = self._condition(routing, decisions, lambda fraction: self._progress(fraction * passes))

    @torch.no_grad()
    def sample(self, *, use_residuals: bool = True, on_step: OnStep | None = None) -> torch.Tensor:
        """Return restored images ``[B, 3, H, W]`` in 0..1, fp32.

        Args:
            use_residuals: If false, without steering.
            on_step: See `mimdit.flow.FlowMatching.sample`.
        """
        restored = self._sample(use_residuals, on_step)
        identified = self.conditioning.identified
        if self.settings.caution == 0:
            return restored
        assert identified is not None, "check_settings requires an identification head"
        original = self.images if self.original is None else self.original
        fine_B, tone_B = shares(identified, self.settings.caution)
        return corrected(original, restored, fine_B=fine_B, tone_B=tone_B)

    def outputs(self) -> dict[str, Any]:
        """Return the outputs of validation: see `Restorer.validation_step`."""
        found = self.conditioning
        estimate = None if found.estimate is None else self.decode(found.estimate)
        return {"restored": self.sample(), "estimate": estimate, "routing": found.routing, "identified": found.identified}

    def _sample(self, use_residuals: bool, on_step: OnStep | None) -> torch.Tensor:
        """Return the images restored in full."""
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
        velocity = partial(
            restorer.velocity,
            conditioning=conditioning,
            anchor=anchor,
            guidance=settings.guidance,
            tiles_at_once=at_once,
            progress=self._progress,
            prompts=prompts_for(settings, restorer.backbone.prompts, self.conditioning.identified, len(self.images)),
        )
        sampled = restorer.flow.sample(velocity, latents, sigma_start, settings.steps, settings.sampler, on_step=on_step)
        restored = self.decode(sampled)
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

    def _condition(self, routing: Routing | None, decisions: Decisions | None, progress: Progress) -> Conditioning:
        """Return the conditioner's output on the degraded latents, in pieces if the settings give an area."""
        conditioner, gains_MG = self.restorer.conditioner, self.restorer.gains(self.settings)
        if self.area is None:
            conditioning = conditioner(self.degraded, routing, gains_MG=gains_MG, decisions=decisions)
            progress(1.0)
            return conditioning
        area = max(1, self.area // self.restorer.backbone.codec.downscale**2)
        return condition_in_pieces(conditioner, self.degraded, area, routing, gains_MG=gains_MG, decisions=decisions, progress=progress)

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
