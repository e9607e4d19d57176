"""Restorer: backbone + conditioner + routing balance = the experiment."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from mimdit.backbone.dit import DiTBackbone, check_flow_loss, draw_path, flow_error
from mimdit.backbone.identity import leave_out, put_back
from mimdit.backbone.int8 import is_int8
from mimdit.conditioner.moe_conditioner import Conditioning, MoEConditioner
from mimdit.core.batch import Batch, draw_names
from mimdit.flow import FlowMatching
from mimdit.restorer.inference import Restoring
from mimdit.restorer.saving import ADAPTERS, check_frozen, load_output_layer, read_settings, save_output_layer, start_from, write_settings
from mimdit.routing.balance import RoutingBalance
from mimdit.routing.routing import uniform_routing
from mimdit.training.ema import ExponentialMovingAverage
from mimdit.training.optimization import parameter_groups
from mimdit.weights import EMBEDDED_RESTORER


class Restorer(Restoring):
    """All-in-one restoration: a DiT steered by a MoE-in-MoE conditioner (paper: MiM-DiT, arXiv 2603.02710).

    Args:
        backbone: The diffusion transformer; frozen unless its ``trainable`` is set or it has adapters.
        conditioner: The MoE-in-MoE conditioner, made for this backbone's latents and tokens.
        balance: The routing losses with their weights.
        flow: Path in training and sampling at inference.
        flow_weight: Weight of the flow-matching loss; 0 trains the estimate alone and never runs the DiT in training.
        flow_images: Images of each micro-batch that the flow loss is taken on; 0 for all. Where the DiT is dear beside the conditioner, a
            few suffice (ours).
        flow_loss_on: What the flow loss is taken on, ``velocity`` or ``sample``: the clean latent that it implies.
        flow_norm: ``mse`` per element (SD3), or ``rmse`` per image, which weighs easy images like hard ones (ours).
        anchor: What the predicted clean latent starts from: ``none`` (the paper), ``degraded`` or ``estimate``. With an anchor the
            transformer's last layer is the restorer's own, new and zero, trained and saved with it. Not in the paper.
        identify_weight: Weight of the identification's loss, binary cross-entropy over the atoms; needs ``identify: true`` in the
            conditioner. Not in the paper.
        estimate_weight: Weight of the estimate's loss; needs ``estimate: true`` in the conditioner. (ours)
        estimate_norm: ``rmse`` per image beside Charbonnier, or ``psnr``: log of the MSE per image, which weighs relative gains alike and
            so spares images that are nearly right already (ours).
        ema_decay: Decay of the moving average of what trains.
        optimizer: Optimiser of everything that trains.
        scheduler: Learning-rate schedule, stepped every optimiser step.
        pretrained: Folder of `save_pretrained` whose conditioner weights, and adapters if there are any, to start from.
        tile: Latent pixels of a side above which the DiT works in overlapping tiles; None for the largest size its positions reach.
        overlap: Least overlap of tiles, latent pixels.
        seed: Seed of noise and sigma in training, and of noise at inference.
        test_ablations: Whether a test also restores every image without the residuals and with uniform gates, at three times the cost.
        test_tile: A test restores images of more than ``test_tile * test_tile`` pixels in pieces, as `restore` with ``tile``; None: whole.

    Raises:
        ValueError: Conditioner and backbone do not fit each other, or a loss needs a part that is switched off.
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
        identify_weight: float = 0.0,
        estimate_weight: float = 0.0,
        estimate_norm: str = "rmse",
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
        super().__init__(backbone, conditioner, flow, tile=tile, overlap=overlap, seed=seed, anchor=anchor)
        check_flow_loss(flow_loss_on, backbone.sigma_min)
        if identify_weight > 0 and conditioner.identification is None:
            raise ValueError("identify_weight > 0 needs conditioner.identify: true; switch it on, or use identify_weight: 0")
        needs_estimate = estimate_weight > 0 or (flow_weight > 0 and flow.source == "estimate")
        if needs_estimate and conditioner.estimate_head is None:
            raise ValueError(
                "estimate_weight > 0 and flow source 'estimate' need conditioner.estimate: true; "
                "switch it on, or use estimate_weight: 0 and source: noise"
            )
        if flow_norm not in ("mse", "rmse"):
            raise ValueError(f"flow_norm {flow_norm!r} is unknown; choose mse or rmse")
        if estimate_norm not in ("rmse", "psnr"):
            raise ValueError(f"estimate_norm {estimate_norm!r} is unknown; choose rmse or psnr")
        self.balance = balance
        self.flow_weight, self.flow_loss_on, self.flow_norm = flow_weight, flow_loss_on, flow_norm
        self.identify_weight = identify_weight
        self.estimate_weight, self.estimate_norm = estimate_weight, estimate_norm
        self.flow_images = flow_images or None
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.test_ablations, self.test_tile = test_ablations, test_tile
        if test_tile is not None and test_tile < 1:
            raise ValueError(f"test_tile={test_tile} must be at least 1; use null to restore whole images")
        if pretrained is not None:
            start_from(Path(pretrained), backbone, conditioner)
            load_output_layer(self, Path(pretrained))
        self._choose_what_trains()
        self.ema = ExponentialMovingAverage(self, ema_decay)
        self._window: list[tuple[torch.Tensor, torch.Tensor]] = []

    def _choose_what_trains(self) -> None:
        """Freeze what no loss reaches, so that every trainable parameter has a gradient in every step, as DDP demands."""
        self.backbone.choose_what_trains(self.flow_weight > 0, own_output=self.output_layer is None)
        if self.output_layer is not None:
            self.output_layer.requires_grad_(self.flow_weight > 0)
        if self.identify_weight == 0 and self.conditioner.identification is not None:
            self.conditioner.identification.requires_grad_(False)
        if self.flow_weight == 0:
            self.conditioner.projections.requires_grad_(False)
            self.conditioner.timestep_scale.requires_grad_(False)
        reached = self.estimate_weight > 0 or (self.anchor == "estimate" and self.flow_weight > 0)
        if not reached and self.conditioner.estimate_head is not None:
            self.conditioner.estimate_head.requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Prepare the backbone for a stage."""
        self.backbone.setup(stage)

    def training_step(self, batch: Batch, batch_idx: int) -> dict:
        """One micro-batch: flow, estimate and routing losses; logs each by name."""
        draws = draw_names(batch, self.global_step)
        degraded, clean = self.backbone.encode_side(batch, "lq"), self.backbone.encode_side(batch, "gt", draws)
        last = self._ends_window(batch_idx)
        reroute = (*(features for features, _ in self._window), None) if last and self.balance.active else ()
        conditioning = self.conditioner(degraded, reroute=reroute)
        losses = {}
        if self.flow_weight:
            losses["flow"] = self.flow_weight * self.flow_loss(degraded, clean, conditioning, draws)
        if self.estimate_weight:
            losses["estimate"] = self.estimate_weight * estimate_loss(conditioning.estimate, clean, self.estimate_norm)
        if self.identify_weight:
            losses["identify"] = self.identify_weight * identify_loss(conditioning.identified, batch["degradation"])
        losses |= self._routing_losses(conditioning, batch["degradation"], last)
        loss = sum(losses.values())
        for name, value in losses.items():
            self.log(f"train/loss/{name}", value.detach(), batch_size=len(degraded))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(degraded))
        return {"loss": loss, "routing": conditioning.routing.detach()}

    def _ends_window(self, batch_idx: int) -> bool:
        """Whether the optimiser steps after this micro-batch: the window is full, or the epoch ends (Lightning steps then, too)."""
        if self._trainer is None:  # a step on its own, as where its cost is counted
            return True
        full = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        return full or self.trainer.is_last_batch or batch_idx + 1 == self.trainer.num_training_batches

    def flow_loss(self, degraded: torch.Tensor, clean: torch.Tensor, conditioning: Conditioning, draws: list[str]) -> torch.Tensor:
        """Error on the path to ``clean [B, C, h, w]``; noise and sigma are drawn by the seed and ``draws``."""
        count = self.flow_images
        if count is not None:
            degraded, clean, draws, conditioning = degraded[:count], clean[:count], draws[:count], conditioning.first(count)
        noise, sigma = draw_path(self.flow, clean, draws, self.seed)
        latents, target = self.flow.interpolate(clean, noise, sigma, conditioning.estimate)
        dropped = self.backbone.drop_prompts(draws, self.seed)
        velocity = self.velocity(latents, sigma, conditioning, anchor=self.anchor_of(degraded, conditioning), dropped=dropped)
        least = self.backbone.least_divisor(anchored=self.anchor != "none")
        error = flow_error(velocity, target, sigma, on=self.flow_loss_on, sigma_min=least)
        return error.mean() if self.flow_norm == "mse" else (error + 1e-6).sqrt().mean()

    def _routing_losses(self, conditioning: Conditioning, degradation: torch.Tensor, last: bool) -> dict[str, torch.Tensor]:
        """Weighted routing losses of the accumulation window, on its last micro-batch, and nothing before.

        The factor undoes the division by the number of micro-batches, so the window's gradient is that of its concatenation.
        """
        if not self.balance.active:
            return {}
        if not last:
            self._window.append((conditioning.routing.features_MBF, degradation))
            return {}
        degradation = torch.cat([*(earlier for _, earlier in self._window), degradation])
        self._window.clear()
        losses = self.balance(conditioning.rerouted, degradation)
        window = 1 if self._trainer is None else self.trainer.accumulate_grad_batches
        return {name: value * self.balance.weights[name] * window for name, value in losses.items()}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict:
        """Restore with the settings of the flow."""
        return self._evaluated(batch["lq"], *self._condition(batch["lq"]))

    def test_step(self, batch: Batch, batch_idx: int) -> dict:
        """Restore, and, unless left out, without the residuals and with uniform gates: what the DiT's steering and the MoE are worth."""
        images, place = batch["lq"], batch["lq"].device
        area = None if self.test_tile is None or images[:, 0].numel() <= self.test_tile**2 else self.test_tile**2
        images = images if area is None else images.cpu()
        degraded, conditioning = self._condition(images, area=area)
        outputs = self._evaluated(images, degraded, conditioning, area)
        if self.test_ablations:
            outputs["residuals_zeroed"] = self._sample(images, degraded, conditioning, use_residuals=False, area=area)
            outputs["gates_uniform"] = self.restore(images, routing=uniform_routing(conditioning.routing), tile=self.test_tile)
        return {name: value.to(place) if isinstance(value, torch.Tensor) else value for name, value in outputs.items()}

    def _evaluated(self, images: torch.Tensor, degraded: torch.Tensor, conditioning: Conditioning, area: int | None = None) -> dict:
        with torch.no_grad():
            estimate = None if conditioning.estimate is None else self._finish(conditioning.estimate, images)
        restored = self._sample(images, degraded, conditioning, area=area)
        return {"restored": restored, "estimate": estimate, "routing": conditioning.routing}

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Restored images ``[B, 3, H, W]``."""
        return self.restore(batch["lq"])

    def compile_blocks(self) -> None:
        """Compile the blocks of backbone and conditioner; the latter serve images that are restored in one piece."""
        self.backbone.compile_blocks()
        self.conditioner.compile_blocks()

    def configure_optimizers(self) -> dict:
        """One optimiser over all that trains, and its schedule."""
        optimizer = self.make_optimizer(parameter_groups(self))
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"}}

    def shard_units(self) -> list[list[nn.Module]]:
        """What a sharded strategy gathers together."""
        own = [] if self.output_layer is None else [[self.output_layer]]
        return [*self.conditioner.shard_units(), *self.backbone.shard_units(), *own, [self.ema]]

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Leave a frozen backbone, and always the codec, out, but for their identity; adapters stay in."""
        leave_out(checkpoint, self.backbone.frozen_state("backbone."), self.backbone.frozen_identity)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Put those weights back, if they are those it was trained on."""
        put_back(checkpoint, self.backbone.frozen_state("backbone."), self.backbone.frozen_identity)

    def with_conditioner(self, conditioner: MoEConditioner) -> Restorer:
        """A restorer for use with another conditioner and the same backbone, flow and settings."""
        settings = {"tile": self.tile, "overlap": self.overlap, "seed": self.seed, "anchor": self.anchor}
        other = Restorer(self.backbone, conditioner, self.balance, self.flow, **settings)
        if self.output_layer is not None:
            other.output_layer.load_state_dict(self.output_layer.state_dict())
            other.ema.restart()
        return other.eval()

    def save_pretrained(self, folder: str | Path, *, average: bool = True, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the weights for use, averaged or not: conditioner, flow settings, and the backbone, in ``dtype``, or its adapters, if they
        trained.
        """
        folder = Path(folder)
        if average:
            self.ema.swap()
        try:
            self.conditioner.save_pretrained(folder)
            save_output_layer(self, folder)
            if self.backbone.trainable:
                self.backbone.save_pretrained(folder / "backbone", dtype=dtype)
            elif self.backbone.lora is not None:
                self.backbone.save_pretrained(folder / ADAPTERS)
        finally:
            if average:
                self.ema.swap()
        settings = {"flow": vars(self.flow), "tile": self.tile, "overlap": self.overlap, "seed": self.seed}
        settings |= {} if self.anchor == "none" else {"anchor": self.anchor}
        if sigma_min := self.backbone.least_divisor(anchored=self.anchor != "none"):
            settings["sigma_min"] = sigma_min
        write_settings(folder, settings | {"frozen": self.backbone.frozen_identity}, self.measured_gates)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = EMBEDDED_RESTORER, *, backbone: DiTBackbone | None = None, torch_dtype: torch.dtype | None = None
    ) -> Restorer:
        """Read what `save_pretrained` wrote, for inference; with no folder, the default that comes with the package.

        Args:
            folder: The folder.
            backbone: The frozen backbone that it was trained on, which gets the folder's adapters and ``sigma_min``, if there are any; None
                for the folder's own, or else the embedded one.
            torch_dtype: Precision of the backbone's transformer, as diffusers asks for it; None leaves it. The conditioner stays in
                fp32, and an int8 transformer as it is.

        Raises:
            ValueError: The folder lacks a file, or the frozen parts of the backbone are not those that it was trained on.
        """
        folder = Path(folder)
        settings, measured_gates = read_settings(folder)
        own = folder / "backbone"
        backbone = backbone or DiTBackbone(str(own) if own.is_dir() else "embedded")
        if (folder / ADAPTERS).is_dir():
            backbone.load_lora(folder / ADAPTERS)
        backbone.sigma_min = settings.pop("sigma_min", backbone.sigma_min)
        frozen, flow = settings.pop("frozen", {}), FlowMatching(**settings.pop("flow"))
        restorer = cls(backbone, MoEConditioner.from_pretrained(folder), RoutingBalance(), flow, **settings)
        check_frozen(frozen, backbone, folder)
        load_output_layer(restorer, folder, required=True)
        restorer.ema.restart()
        restorer.measured_gates = measured_gates
        if torch_dtype is not None and not is_int8(backbone.transformer):
            backbone.transformer.to(torch_dtype)
        return restorer.eval()


def estimate_loss(estimate: torch.Tensor, clean: torch.Tensor, norm: str = "rmse") -> torch.Tensor:
    """How far estimates ``[B, C, h, w]`` are from the truth, as one number.

    ``rmse``: Charbonnier error plus RMSE per image, the first for detail, the second for PSNR, which is a mean of logs. ``psnr``: that
    mean of logs itself, 0.05 ln(MSE + 4e-4); the floor is that of 40 dB for pixels in -1..1, beyond which little is seen. (ours)
    """
    error = (estimate - clean.float()).square()
    mse = error.mean(dim=(1, 2, 3))
    if norm == "psnr":
        return 0.05 * (mse + 4e-4).log().mean()
    return (error + 1e-6).sqrt().mean() + (mse + 1e-6).sqrt().mean()


def identify_loss(identified: torch.Tensor, degradation: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy of logits ``identified [B, A]`` against the multi-hot ``degradation [B, A]``."""
    return nn.functional.binary_cross_entropy_with_logits(identified, degradation.to(identified.dtype))
