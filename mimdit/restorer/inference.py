"""Restoring: the use of a restorer, from images to images."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
import torch
from diffusers.utils.accelerate_utils import apply_forward_hook

from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.prediction import zero_output_layer
from mimdit.conditioner.in_pieces import condition_in_pieces
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner
from mimdit.core.canvas import canvas, in_rows
from mimdit.flow import FlowMatching, check_sampling, keyed_generator
from mimdit.restorer.color import check_color, match_color
from mimdit.restorer.padding import mirrored, pad_by_reflection
from mimdit.restorer.steering import MeasuredGates, gains
from mimdit.restorer.tiling import tiled_velocity
from mimdit.routing.routing import Routing

ANCHORS = ("none", "degraded", "estimate")


class Restoring(L.LightningModule):
    """What restores: a DiT steered by a MoE-in-MoE conditioner, and a sampler. `mimdit.restorer.restorer.Restorer` trains it.

    Args:
        backbone: The diffusion transformer.
        conditioner: The MoE-in-MoE conditioner, made for this backbone's latents and tokens.
        flow: Sampling.
        tile: Latent pixels of a side above which the DiT works in overlapping tiles; None for the largest size its positions reach.
        overlap: Least overlap of tiles, latent pixels.
        seed: Seed of the noise.
        anchor: What the predicted clean latent starts from: ``none`` (the paper), ``degraded`` or ``estimate``. With an anchor the
            transformer's last layer is the restorer's own, new and zero: at step 0 the prediction is the anchor. Not in the paper.

    Raises:
        ValueError: Conditioner and backbone do not fit each other, or the tile does not fit the backbone.
    """

    def __init__(
        self, backbone: DiTBackbone, conditioner: MoEConditioner, flow: FlowMatching, *, tile: int | None, overlap: int, seed: int,
        anchor: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        _check_fit(backbone, conditioner)
        if flow.guidance != 1:
            backbone.prompts.require_unconditional(f"flow guidance={flow.guidance}")
        self.backbone, self.conditioner, self.flow = backbone, conditioner, flow
        self.tile, self.overlap, self.seed = backbone.max_size if tile is None else tile, overlap, seed
        if not 0 < self.tile <= backbone.max_size or self.tile % backbone.token_patch:
            limits = f"a multiple of the backbone's patch {backbone.token_patch} and at most {backbone.max_size}, the largest size it knows"
            raise ValueError(f"tile={tile} must be {limits}")
        self.measured_gates: MeasuredGates | None = None
        if anchor not in ANCHORS:
            raise ValueError(f"anchor {anchor!r} is unknown; choose one of {', '.join(ANCHORS)}")
        if anchor == "estimate" and conditioner.estimate_head is None:
            raise ValueError("anchor 'estimate' needs a conditioner with estimate: true; switch it on, or use anchor: degraded or none")
        self.anchor = anchor
        self.output_layer = None if anchor == "none" else zero_output_layer(backbone.transformer)

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning | None,
        *,
        anchor: torch.Tensor | None = None,
        **prompting: object,
    ) -> torch.Tensor:
        """The DiT's velocity at ``latents [B, C, h, w]`` and ``sigma [B]``, steered by ``conditioning``, or by nothing.

        ``anchor`` is that of `anchor_of`; ``prompting`` are the backbone's ``guidance`` and ``dropped``, and `tiled_velocity`'s
        ``at_once``, ``device`` and ``done``.

        Raises:
            ValueError: The restorer has an anchor and none is given, or the other way round.
        """
        if (anchor is None) != (self.output_layer is None):
            given = "no anchor is given" if anchor is None else "an anchor is given"
            raise ValueError(f"{given} to a restorer with anchor: {self.anchor}; pass anchor_of(degraded, conditioning)")
        residuals = None if conditioning is None else conditioning.residuals
        settings = {"tile": self.tile, "overlap": self.overlap, "scale": self.conditioner.timestep_scale} | prompting
        return tiled_velocity(self.backbone, latents, sigma, residuals, anchor=anchor, output_layer=self.output_layer, **settings)

    def anchor_of(self, degraded: torch.Tensor, conditioning: Conditioning) -> torch.Tensor | None:
        """Return what the predicted clean latent starts from, ``[B, C, h, w]``; None without an anchor."""
        return {"none": None, "degraded": degraded, "estimate": conditioning.estimate}[self.anchor]

    @apply_forward_hook  # diffusers' offloading brings the weights when this is called
    def restore(
        self,
        images: torch.Tensor,
        steps: int | None = None,
        *,
        start: str | None = None,
        sigma_start: float | None = None,
        seed: int | None = None,
        guidance: float | None = None,
        routing: Routing | None = None,
        use_residuals: bool = True,
        tile: int | None = None,
        color: str = "none",
        steer: dict[str, float] | None = None,
        progress: Callable[[float], None] = lambda share: None,
        explain: Callable[[Routing], None] = lambda routing: None,
    ) -> torch.Tensor:
        """Restore images of any size.

        Args:
            images: ``[B, 3, H, W]`` in 0..1.
            steps: Sampler steps; None for the flow's own. 0 returns the start: the estimate, or the degraded image.
            start: ``noise``, ``degraded`` or ``estimate``; None for the flow's own.
            sigma_start: Noise level to start from, (0, 1]; None for the flow's own.
            seed: Seed of the noise; None for the restorer's own. The noise depends on seed and size alone: it is that of the whole image,
                also in pieces, and the same for all images of a batch.
            guidance: Strength of the prompt, at least 0; None for the flow's own. Any value but 1 asks the DiT twice a step.
            routing: Gates to obey instead of the image's own.
            use_residuals: Whether the DiT is steered; False leaves it to itself, to see what the conditioner does.
            tile: Images of more than ``tile * tile`` pixels, all together, are worked on in pieces of about that area, which alone are
                on the restorer's device; the rest stays where ``images`` are, on the host in files (`mimdit.core.canvas`). The result is
                that of one piece, to rounding: all that is read of the whole image is read at full resolution. None for one piece.
            color: Whether the result gets the colours of the estimate, or where there is none of the degraded image: ``none``,
                ``wavelet`` or ``adain`` (`mimdit.restorer.color`). For samplers that drift; haze and darkness are colours too, so without
                an estimate they come back.
            steer: Factors of groups and degradations by name, such as ``{"haze": 0, "channel": 2}``; see `mimdit.restorer.steering.gains`.
            progress: Is told the share of all, 0..1, that each part of the work was: a pass of a conditioner's block over an image in
                pieces counts as much as a question to the DiT.
            explain: Is told the routing.

        Returns:
            Restored images ``[B, 3, H, W]`` in 0..1, fp32, where ``images`` are.

        Raises:
            ValueError: A setting is out of range or unknown, this conditioner makes no estimate to start from, this backbone has no
                unconditional prompt to guide away from, or its gates were not measured for a degradation in ``steer``.
        """
        self.check_settings(steps=steps, start=start, sigma_start=sigma_start, guidance=guidance, tile=tile, color=color, steer=steer)
        settings = {"start": start, "sigma_start": sigma_start, "seed": seed, "guidance": guidance, "use_residuals": use_residuals}
        passes, questions = 2 * len(self.conditioner.blocks), self.flow.questions(self._sampling(steps, start, sigma_start, guidance)[0])
        settings |= {"color": color, "done": lambda share: progress(share / (passes + questions))}
        area = None if tile is None or images[:, 0].numel() <= tile**2 else tile**2
        place = images.device
        images = images if area is not None else images.to(self.device)
        gains_MG = self._gains(steer)
        degraded, conditioning = self._condition(
            images, routing, area, gains_MG, done=lambda share: progress(share * passes / (passes + questions))
        )
        explain(conditioning.routing)
        return self._sample(images, degraded, conditioning, steps, area=area, **settings).to(place)

    def _gains(self, steer: dict[str, float] | None) -> torch.Tensor | None:
        return None if not steer else gains(steer, self.conditioner.groups, len(self.conditioner.blocks), self.measured_gates)

    def check_settings(
        self, *, steps: int | None = None, start: str | None = None, sigma_start: float | None = None, guidance: float | None = None,
        seed: int | None = None, tile: int | None = None, color: str = "none", steer: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Raise ValueError where `restore` could not use these."""
        _, start, *_ = self._sampling(steps, start, sigma_start, guidance)
        if start == "estimate" and self.conditioner.estimate_head is None:
            raise ValueError("start 'estimate' needs a conditioner with estimate: true; use start: degraded or noise")
        if tile is not None and tile < 1:
            raise ValueError(f"tile={tile} must be at least 1; use null for one piece")
        check_color(color)
        self._gains(steer)

    def _sampling(
        self, steps: int | None, start: str | None, sigma_start: float | None, guidance: float | None
    ) -> tuple[int, str, float, float]:
        """Each as given, or else the flow's own."""
        given = {"start": start, "sigma_start": sigma_start, "steps": steps, "guidance": guidance}
        chosen = {name: getattr(self.flow, name) if value is None else value for name, value in given.items()}
        check_sampling(**chosen)
        return chosen["steps"], chosen["start"], chosen["sigma_start"], chosen["guidance"]

    @torch.no_grad()
    def _condition(
        self, images: torch.Tensor, routing: Routing | None = None, area: int | None = None,
        gains_MG: torch.Tensor | None = None, done: Callable[[float], None] = lambda share: None,
    ) -> tuple[torch.Tensor, Conditioning]:  # fmt: skip
        """The latents of ``images``, padded, and what the conditioner says of them, in pieces of ``area`` pixels where it is given."""
        downscale = self.backbone.codec.downscale
        multiple = self.conditioner.multiple * downscale
        if area is not None and self.backbone.codec.pointwise:
            degraded = self._encode_in_rows(images, multiple)
        else:
            padded = pad_by_reflection(images, multiple)
            degraded = self.backbone.encode(padded.to(self._codec_place(padded))).to(padded.device)
        if area is None:
            conditioning = self.conditioner(degraded, routing, gains_MG=gains_MG)
            done(1.0)
            return degraded, conditioning
        area = max(1, area // downscale**2)
        return degraded, condition_in_pieces(self.conditioner, degraded, area, routing, gains_MG=gains_MG, done=done)

    def _encode_in_rows(self, images: torch.Tensor, multiple: int) -> torch.Tensor:
        """Latents of the padded images, some rows at a time."""
        rows, columns = (mirrored(size, -size % multiple, images.device) for size in images.shape[2:])
        latents = canvas(len(images), self.backbone.codec.channels, len(rows), len(columns), device=images.device)
        for some in in_rows(len(rows), len(columns)):
            latents[:, :, some] = self.backbone.encode(images[:, :, rows[some]][..., columns])
        return latents

    @torch.no_grad()
    def _sample(
        self, images: torch.Tensor, degraded: torch.Tensor, conditioning: Conditioning, steps: int | None = None, *,
        start: str | None = None, sigma_start: float | None = None, seed: int | None = None, guidance: float | None = None,
        use_residuals: bool = True, area: int | None = None, color: str = "none", done: Callable[[float], None] = lambda share: None,
    ) -> torch.Tensor:  # fmt: skip
        """`restore`, from what `_condition` gave."""
        steps, start, sigma_start, guidance = self._sampling(steps, start, sigma_start, guidance)
        begin = degraded if start == "degraded" else conditioning.estimate
        if steps == 0:
            return self._finish(degraded if begin is None else begin, images, area)
        generator = keyed_generator("restore", self.seed if seed is None else seed)
        noise = torch.randn(degraded.shape[1:], generator=generator, out=canvas(*degraded.shape[1:]))
        noise = noise[None].to(degraded.device) if len(degraded) == 1 else noise.to(degraded.device).repeat(len(degraded), 1, 1, 1)
        latents, sigma_start = self.flow.begin(noise, start, sigma_start, begin)
        del noise, begin
        anchor = self.anchor_of(degraded, conditioning)
        steering = conditioning if use_residuals else None
        of_tile = len(images) * (self.tile * self.backbone.codec.downscale) ** 2
        pieces = {} if area is None else {"at_once": max(1, area // of_tile), "device": self.device}

        def velocity(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return self.velocity(z, sigma, steering, anchor=anchor, guidance=guidance, done=done, **pieces)

        restored = self._finish(self.flow.sample(velocity, latents, sigma_start, steps), images, area)
        if color == "none":
            return restored
        given = degraded if conditioning.estimate is None else conditioning.estimate
        return match_color(restored, self._finish(given, images, area), color)

    def _finish(self, latents: torch.Tensor, images: torch.Tensor, area: int | None = None) -> torch.Tensor:
        """Images of the size of ``images`` from padded latents, some rows at a time where there is an ``area``."""
        if area is not None and self.backbone.codec.pointwise:
            finished = canvas(*images.shape, device=images.device)
            for some in in_rows(*images.shape[2:]):
                finished[:, :, some] = self.backbone.decode(latents[:, :, some, : images.shape[3]]).clamp(0, 1)
            return finished
        decoded = self.backbone.decode(latents.to(self._codec_place(latents)))
        return decoded[..., : images.shape[2], : images.shape[3]].clamp(0, 1).to(images.device)

    def _codec_place(self, tensor: torch.Tensor) -> torch.device:
        """Where the codec works on ``tensor``: its own device, or that of ``tensor`` where it has no weights."""
        return next((weight.device for weight in self.backbone.codec.parameters()), tensor.device)


def _check_fit(backbone: DiTBackbone, conditioner: MoEConditioner) -> None:
    wanted = {name: getattr(backbone, name) for name in ("latent_channels", "token_dim", "num_layers", "token_patch")}
    wrong = {name: value for name, value in wanted.items() if conditioner.config[name] != value}
    if wrong:
        found = ", ".join(f"{name}={conditioner.config[name]}" for name in wrong)
        needed = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise ValueError(f"the conditioner was made for another backbone: it has {found}; this backbone needs {needed}")
