"""Restorer: backbone + conditioner + routing balance = the experiment."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, Unpack

import lightning as L
import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.identity import leave_out, put_back
from mimdit.backbone.prediction import zero_output_layer
from mimdit.backbone.prompts import Prompts
from mimdit.conditioner.moe_conditioner import Conditioning, Decisions, MoEConditioner
from mimdit.core.batch import Batch
from mimdit.core.connected_trainer import has_progress_bar
from mimdit.core.hub import HubOptions, PushToHub, local_folder
from mimdit.flow import FlowMatching, OnStep
from mimdit.restorer.checks import (
    check_caution_head,
    check_cleaned,
    check_gated_estimate,
    check_harm,
    check_heads,
    check_losses,
    check_parts,
    check_routing_losses,
    check_settings,
    check_weights,
    tile_of,
)
from mimdit.restorer.inference import Progress, Restoration, ignore
from mimdit.restorer.losses import freeze_unreached, step_losses
from mimdit.restorer.model_card import write_model_card
from mimdit.restorer.prompting import check_trained
from mimdit.restorer.routing_window import RoutingWindow, ends_window
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.saving import load_restorer, save_restorer, start_from
from mimdit.restorer.selective import restore_only
from mimdit.restorer.steering import MeasuredGates, gains
from mimdit.restorer.tiling import tiled_velocity
from mimdit.routing.balance import RoutingBalance
from mimdit.routing.routing import Routing, uniform_routing
from mimdit.routing.token_routing import token_outputs
from mimdit.training.ema import ExponentialMovingAverage
from mimdit.training.optimization import clip_gradients, optimizer_and_schedule
from mimdit.weights import EMBEDDED_RESTORER, NAMED


class Restorer(PushToHub, L.LightningModule):
    """All-in-one restoration: a DiT steered by a MoE-in-MoE conditioner (paper: MiM-DiT, arXiv 2603.02710).

    The losses of a training step are in `mimdit.restorer.losses`, a restoration's way through the parts in `mimdit.restorer.inference`,
    saving and loading in `mimdit.restorer.saving`.

    Args:
        backbone: The diffusion transformer; frozen unless its ``trainable`` is set or it has adapters.
        conditioner: The MoE-in-MoE conditioner, made for this backbone's latents and tokens.
        balance: The routing losses with their weights.
        flow: Path in training, and default sampling at inference.
        flow_weight: Weight of the flow-matching loss; 0 trains only the estimate and never runs the DiT in training.
        flow_images: Images of each micro-batch in the flow loss; 0 for all. Where the DiT costs much more than the conditioner, a few
            suffice. Not in the paper.
        flow_loss_on: Quantity of the flow loss, ``velocity`` or ``sample``: the clean latent that the velocity implies.
        flow_norm: ``mse`` per element (SD3), ``rmse`` per image, which weights easy and hard images equally, or ``psnr``, as for
            ``estimate_norm``. The last two are not in the paper.
        anchor: Latent that the predicted clean latent starts from: ``none`` (the paper), ``degraded`` or ``estimate``. With an anchor the
            transformer's last layer is replaced by the restorer's own, new and zero, trained and saved with it: at step 0 the prediction is
            the anchor. Not in the paper.
        prompting: Text that the DiT gets, in training and by default at inference: ``none``, the backbone's prompt for all images, or
            ``detected``, the mean of the degradations' texts in the backbone's ``prompt`` file: those of the labels in training, those
            identified, by probability, at inference. Not in the paper (compare AutoDIR, arXiv 2310.10123).
        caution: Default of ``caution`` at inference: the probability, in 0..1, from which a degradation is corrected in full, or one for
            each by name; see `SamplingSettings`. 0 corrects every image in full. Training does not depend on it. Not in the paper.
        identify_weight: Weight of the identification loss, binary cross-entropy over the atoms; needs ``identify: true`` in the
            conditioner. Not in the paper.
        estimate_weight: Weight of the estimate's loss; needs ``estimate: true`` in the conditioner. Not in the paper.
        estimate_norm: ``rmse``, Charbonnier plus RMSE per image, or ``psnr``, the log of the MSE per image, which weights relative gains
            equally and so preserves images that are nearly right already. Not in the paper.
        gate_estimate: ``none``, or the share of the estimate's correction that its loss sees: ``identified``, what ``caution`` would let
            through; ``labels``, the same if all degradations were identified with certainty: nothing in images that need nothing, no tone
            where only noise was added. So the estimate hedges less about them. Needs one latent a pixel. Not in the paper.
        cleaned_share: Share in 0..1 of the steps in which noisy and JPEG-compressed images come without the fine part of the estimate's
            correction, as ``only`` decides their tone. Needs a trained estimate and one latent a pixel. Not in the paper.
        harm_weight: Weight of the penalty on estimates that are worse than the degraded image (`mimdit.training.losses.harm_loss`): the
            larger, the surer the model must be to change something. Not in the paper.
        ema_decay: Decay of the moving average of the trainable weights, in [0, 1).
        optimizer: Optimizer of everything that trains.
        scheduler: Learning-rate schedule, stepped every optimizer step.
        pretrained: Folder of `save_pretrained`, or the ``owner/name`` of one on the Hugging Face hub, whose conditioner weights, and
            adapters and experts if there are any, to start from; ``embedded`` or ``paper`` for those of the package; None for random ones.
        tile: Side in latent pixels above which the DiT works in overlapping tiles at inference; None for the largest that its position
            embedding covers. The ``tile`` of `restore` is another: it is in image pixels, and all work is done in such pieces.
        overlap: Minimum overlap of tiles, in latent pixels.
        seed: Seed of noise and sigma in training, and of noise at inference.
        test_ablations: If true, the test also restores every image without residuals and with uniform gates, at three times the cost.
        test_tile: In the test, images of more than test_tile² pixels are restored in pieces, as `restore` does with ``tile``; None for
            whole images.

    Raises:
        ValueError: Conditioner and backbone do not fit each other, the tile does not fit the backbone, a loss or the flow needs a part that
            is switched off, or a value is out of range.
    """

    def __init__(
        self,
        backbone: DiTBackbone,
        conditioner: MoEConditioner,
        balance: RoutingBalance,
        flow: FlowMatching,
        *,
        flow_weight: float = 1.0,
        flow_images: int = 0,
        flow_loss_on: str = "velocity",
        flow_norm: str = "mse",
        anchor: str = "none",
        prompting: str = "none",
        caution: float | dict[str, float] = 0.0,
        identify_weight: float = 0.0,
        estimate_weight: float = 0.0,
        estimate_norm: str = "rmse",
        gate_estimate: str = "none",
        cleaned_share: float = 0.0,
        harm_weight: float = 0.0,
        ema_decay: float = 0.999,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        pretrained: str | None = None,
        tile: int | None = None,
        overlap: int = 32,
        seed: int = 0,
        test_ablations: bool = True,
        test_tile: int | None = None,
    ) -> None:
        super().__init__()
        check_parts(backbone, conditioner, flow)
        check_losses(flow_loss_on, flow_norm, estimate_norm, backbone.sigma_min)
        check_weights(flow_weight, estimate_weight, identify_weight, flow_images)
        check_heads(conditioner, flow, flow_weight, estimate_weight, identify_weight, anchor)
        check_harm(harm_weight, estimate_weight)
        check_gated_estimate(gate_estimate, estimate_weight, caution, backbone)
        check_cleaned(cleaned_share, estimate_weight, backbone)
        check_routing_losses(conditioner, balance.weights)
        check_trained(prompting, backbone.prompts)
        check_caution_head(caution, conditioner)
        self.backbone, self.conditioner, self.flow = backbone, conditioner, flow
        self.tile, self.overlap, self.seed = tile_of(backbone, tile), overlap, seed
        self.anchor, self.prompting, self.caution = anchor, prompting, caution
        self.measured_gates: MeasuredGates | None = None
        self.output_layer = None if anchor == "none" else zero_output_layer(backbone.transformer)
        self.balance = balance
        self.flow_weight, self.flow_loss_on, self.flow_norm = flow_weight, flow_loss_on, flow_norm
        self.flow_images = flow_images or None
        self.identify_weight = identify_weight
        self.estimate_weight, self.estimate_norm, self.harm_weight = estimate_weight, estimate_norm, harm_weight
        self.gate_estimate, self.cleaned_share = gate_estimate, cleaned_share
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        if test_tile is not None and test_tile < 1:
            raise ValueError(f"test_tile={test_tile} must be at least 1; use null to restore whole images")
        self.test_ablations, self.test_tile = test_ablations, test_tile
        if pretrained is not None:
            start_from(self, NAMED.get(pretrained) or local_folder(pretrained))
        freeze_unreached(self)
        self.ema = ExponentialMovingAverage(self, ema_decay)
        self.routing_window = RoutingWindow()

    def setup(self, stage: str) -> None:
        """Prepare the backbone for a stage."""
        self.backbone.setup(stage)

    def training_step(self, batch: Batch, batch_idx: int) -> dict:
        """Return the sum of the losses of one micro-batch (`mimdit.restorer.losses.step_losses`) and its routing; log each loss by name."""
        micro_batches = 1 if self._trainer is None else self.trainer.accumulate_grad_batches
        losses = step_losses(self, batch, last=ends_window(self._trainer, batch_idx), micro_batches=micro_batches)
        loss, size = reduce(torch.add, losses.weighted.values()), len(batch["degradation"])
        for name, value in losses.weighted.items():
            self.log(f"train/loss/{name}", value.detach(), batch_size=size)
        self.log("train/loss", loss.detach(), prog_bar=has_progress_bar(self), batch_size=size)
        return {"loss": loss, "routing": losses.routing.detach()} | token_outputs(losses.tokens)

    def sampling_settings(self, settings: SamplingSettings | None = None, **overrides: Any) -> SamplingSettings:
        """Return ``settings``, or else this restorer's own, with ``overrides``, whose None values change nothing.

        Raises:
            ValueError: A value is unknown or out of range, or the restorer lacks what it needs: an estimate to start from, texts, an
                unconditional prompt for guidance, an identification head for ``only``, ``caution`` or detected prompts, or measured gates
                for a degradation in ``steer``.
        """
        if settings is None:
            own = {name: getattr(self.flow, name) for name in ("steps", "start", "sigma_start", "sampler", "guidance")}
            settings = SamplingSettings(**own, seed=self.seed, prompting=self.prompting, caution=self.caution)
        settings = settings.changed(**overrides)
        check_settings(settings, self.backbone, self.conditioner)
        self.gains(settings)
        return settings

    def gains(self, settings: SamplingSettings) -> torch.Tensor | None:
        """Return the factors ``[M, G]`` of the dense gates; None where nothing is steered.

        Raises:
            ValueError: As for `mimdit.restorer.steering.gains`.
        """
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
        decisions: Decisions | None = None,
        original: torch.Tensor | None = None,
        use_residuals: bool = True,
        progress: Progress = ignore,
        on_decisions: Callable[[Decisions], None] = ignore,
        on_step: OnStep | None = None,
        **overrides: Any,
    ) -> torch.Tensor:
        """Restore images of any size.

        Args:
            images: Degraded images ``[B, 3, H, W]`` in 0..1, on any device.
            settings: How to restore; None for the restorer's own settings. An integer sets only the steps, as ``steps=`` does.
            routing: Gates to use instead of those that the image decides.
            decisions: Gates and tone to use instead of those that the image decides, such as those of `mimdit.restorer.sequence`.
            original: Images, like ``images``, to return to where ``caution`` leaves the correction out, such as a frame before it was
                averaged with its neighbors; None for ``images``.
            use_residuals: If false, the residuals are left out and the DiT works without steering: an ablation.
            progress: Called after each unit of work with the fraction it completed; the fractions sum to 1. One pass of a conditioner
                block counts as one DiT evaluation.
            on_decisions: Called once the gates have decided, with the routing and all else that was decided for the images. With ``only``,
                which restores twice, it is called with the first decisions, at the end.
            on_step: Called after each sampler step; see `mimdit.flow.FlowMatching.sample`.
            **overrides: Fields of `SamplingSettings` to change, such as ``steps=4`` or ``tile=1024``; None changes nothing.

        Returns:
            Restored images ``[B, 3, H, W]`` in 0..1, fp32, on the device of ``images``.

        Raises:
            ValueError: As for `sampling_settings`, ``images`` are empty, or ``only`` is given together with ``routing`` or ``decisions``.
        """
        if not images.numel():
            raise ValueError(f"images of shape {[*images.shape]} are empty; give at least one of at least one pixel")
        if isinstance(settings, int):
            settings, overrides = None, {"steps": settings} | overrides
        settings = self.sampling_settings(settings, **overrides)
        if settings.only is not None:
            if routing is not None or decisions is not None:
                raise ValueError(f"only={[*settings.only]} decides for itself, several times; leave routing and decisions out, or only")
            callbacks: dict[str, Any] = {"progress": progress, "on_decisions": on_decisions, "on_step": on_step}
            return restore_only(self, images, settings, **callbacks, use_residuals=use_residuals)
        restoration = Restoration(
            self, images, settings, routing=routing, decisions=decisions, original=original, progress=progress
        )  # fmt: skip
        on_decisions(restoration.conditioning.decisions)
        return restoration.sample(use_residuals=use_residuals, on_step=on_step).to(images.device)

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning | None,
        *,
        anchor: torch.Tensor | None = None,
        guidance: float = 1.0,
        tiles_at_once: int = 1,
        progress: Progress = ignore,
        prompts: Prompts | None = None,
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
            prompts: Prompts of the images; None for the backbone's, the same for all.

        Raises:
            ValueError: The restorer has an anchor and none is given, or it has none and one is given.
        """
        if (anchor is None) != (self.output_layer is None):
            if anchor is not None:
                raise ValueError(f"an anchor is given to a restorer with anchor: {self.anchor}; leave anchor out")
            raise ValueError(f"no anchor is given to a restorer with anchor: {self.anchor}; pass anchor_of(degraded, conditioning)")
        residuals, scale = None if conditioning is None else conditioning.residuals, self.conditioner.timestep_scale
        if max(latents.shape[2:]) > self.tile:
            return tiled_velocity(
                self.backbone, latents, sigma, residuals, tile=self.tile, overlap=self.overlap, at_once=tiles_at_once, device=self.device,
                scale=scale, progress=progress, guidance=guidance, anchor=anchor, output_layer=self.output_layer, prompts=prompts,
            )  # fmt: skip
        place, sigma = latents.device, sigma.to(self.device)
        if residuals is not None:
            residuals = scale([residual.to(self.device) for residual in residuals], sigma)
        anchor = None if anchor is None else anchor.to(self.device)
        velocity = self.backbone.velocity(
            latents.to(self.device), sigma, residuals, guidance=guidance, anchor=anchor, output_layer=self.output_layer, prompts=prompts
        )  # fmt: skip
        progress(1.0)
        return velocity.to(place)

    def anchor_of(self, degraded: torch.Tensor, conditioning: Conditioning) -> torch.Tensor | None:
        """Return the latents ``[B, C, h, w]`` that the predicted clean latent starts from; None without an anchor."""
        return {"none": None, "degraded": degraded, "estimate": conditioning.estimate}[self.anchor]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict:
        """Restore the images ``lq [B, 3, H, W]`` with the restorer's own settings.

        Returns:
            ``restored`` and ``estimate`` (None without one), ``[B, 3, H, W]`` in 0..1, ``routing``, and ``identified``, the logits
            ``[B, A]`` of the degradations (None without an identification head).
        """
        return Restoration(self, _degraded_images(batch), self.sampling_settings()).outputs()

    def test_step(self, batch: Batch, batch_idx: int) -> dict:
        """Restore as in validation; with ``test_ablations`` also without residuals and with uniform gates.

        Returns:
            The entries of validation, and ``residuals_zeroed`` and ``gates_uniform``, ``[B, 3, H, W]`` in 0..1.
        """
        images, settings = _degraded_images(batch), self.sampling_settings(tile=self.test_tile)
        place = images.device
        if settings.area(images) is not None:
            images = images.cpu()  # only the current piece is on the device
        restoration = Restoration(self, images, settings)
        outputs = restoration.outputs()
        if self.test_ablations:
            outputs["residuals_zeroed"] = restoration.sample(use_residuals=False)
            outputs["gates_uniform"] = self.restore(images, settings, routing=uniform_routing(restoration.conditioning.routing))
        return {name: value.to(place) if isinstance(value, torch.Tensor) else value for name, value in outputs.items()}

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return restored images ``[B, 3, H, W]`` in 0..1."""
        return self.restore(_degraded_images(batch))

    def compile_blocks(self) -> None:
        """Compile the blocks of backbone and conditioner; the conditioner's are used for images that are restored in one piece."""
        self.backbone.compile_blocks()
        self.conditioner.compile_blocks()

    def configure_optimizers(self) -> dict:
        """Return one optimizer over all trainable parameters, and its schedule."""
        return optimizer_and_schedule(self, self.make_optimizer, self.make_scheduler)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients as the Trainer is configured."""
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def shard_units(self) -> list[list[nn.Module]]:
        """Return the groups of modules that a sharded strategy gathers together."""
        own: list[list[nn.Module]] = [] if self.output_layer is None else [[self.output_layer]]
        return [*self.conditioner.shard_units(), *self.backbone.shard_units(), *own, [self.ema]]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Replace the codec, and the backbone if it is frozen, with their identities; adapters are saved."""
        leave_out(checkpoint, self.backbone.frozen_state("backbone."), self.backbone.frozen_identity)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Put the omitted weights back if their identities match the saved ones."""
        put_back(checkpoint, self.backbone.frozen_state("backbone."), self.backbone.frozen_identity)

    def with_conditioner(self, conditioner: MoEConditioner) -> Restorer:
        """Return a restorer for inference, in eval mode, with another conditioner, the same backbone and the same sampling settings.

        It is not for training: loss weights and optimizer are the defaults. The measured gates stay only if the conditioner does: they
        are its own.
        """
        trains = [(parameter, parameter.requires_grad) for part in (self.backbone, conditioner) for parameter in part.parameters()]
        settings = {"tile": self.tile, "overlap": self.overlap, "seed": self.seed, "anchor": self.anchor}
        settings |= {"prompting": self.prompting, "caution": self.caution}
        other = Restorer(self.backbone, conditioner, self.balance, self.flow, **settings)
        for parameter, required in trains:  # the new restorer's losses are not this one's
            parameter.requires_grad_(required)
        if self.output_layer is not None and other.output_layer is not None:
            other.output_layer.load_state_dict(self.output_layer.state_dict())
            other.ema.restart()
        if conditioner is self.conditioner:
            other.measured_gates = self.measured_gates
        return other.eval()

    def save_pretrained(self, folder: str | Path, *, average: bool = True, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write a folder for `from_pretrained`: conditioner, settings, and of the backbone what trained.

        Args:
            folder: Folder to write.
            average: If true, write the averaged weights, otherwise the weights of the last step.
            dtype: Precision of a written backbone.
        """
        save_restorer(self, Path(folder), average=average, dtype=dtype)

    def write_card(self, folder: Path, title: str) -> None:
        """Write a model card for `push_to_hub`."""
        write_model_card(folder, self, title=title)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path = EMBEDDED_RESTORER,
        *,
        backbone: DiTBackbone | None = None,
        torch_dtype: torch.dtype | None = None,
        **hub: Unpack[HubOptions],
    ) -> Restorer:
        """Read a folder written by `save_pretrained` for inference; by default the one that comes with the package.

        Args:
            folder: The folder, the ``owner/name`` of a repository on the Hugging Face hub, or ``embedded`` or ``paper`` for those that come
                with the package.
            backbone: The frozen backbone that the restorer was trained on; it receives the folder's adapters and ``sigma_min``, if there
                are any. None for the folder's own, or else the embedded one.
            torch_dtype: Precision of the backbone's transformer, as in diffusers; None leaves it. The conditioner, adapters and experts
                stay in fp32, and an int8 transformer as it is.
            **hub: Options of a repository, such as ``revision``; see `mimdit.core.hub.HubOptions`.

        Raises:
            ValueError: The folder lacks a file, ``torch_dtype`` is no torch.dtype, or the frozen parts of the backbone are not the ones
                that it was trained on.
        """
        if torch_dtype is not None and not isinstance(torch_dtype, torch.dtype):
            raise ValueError(f"torch_dtype={torch_dtype!r} is no torch.dtype; give torch.float32, torch.bfloat16 or torch.float16")
        return load_restorer(cls, NAMED.get(str(folder)) or local_folder(folder, **hub), backbone, torch_dtype)


def _degraded_images(batch: Batch) -> torch.Tensor:
    assert "lq" in batch, "only training reads cached latents"
    return batch["lq"]
