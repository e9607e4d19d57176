"""DiTBackbone: a diffusers transformer, unforked, with its codec and prompt. Fitted on its own, it is the pretraining stage."""

from __future__ import annotations

import copy
import inspect
from functools import cached_property
from pathlib import Path

import lightning as L
import torch
from diffusers import ModelMixin
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from mimdit.backbone import pixart, sd3
from mimdit.backbone.codec import PixelCodec
from mimdit.backbone.family import Family
from mimdit.backbone.identity import Identity, identity, leave_out, put_back
from mimdit.backbone.int8 import is_int8, quantize_transformer
from mimdit.backbone.lora import LoRA, add_lora, is_adapter, load_lora, save_lora
from mimdit.backbone.prediction import prediction_of, replaced_output, sample_to_velocity, set_prediction
from mimdit.backbone.pretrained import Origin, load_pretrained
from mimdit.backbone.prompts import PromptEmbeddings
from mimdit.core.batch import Batch, draw_names
from mimdit.core.rng import keyed_generator
from mimdit.flow import FlowMatching, draw_path
from mimdit.training.losses import check_flow_loss, flow_error
from mimdit.training.optimization import optimizer_and_schedule
from mimdit.weights import EMBEDDED_BACKBONE

FAMILIES: tuple[Family, ...] = (sd3, pixart)
"""The families that are known; a checkpoint's ``_class_name`` chooses."""

KINDS = tuple(family.KIND for family in FAMILIES)
DTYPES = ("float32", "bfloat16")


class DiTBackbone(L.LightningModule):
    """A diffusion transformer of one of the `FAMILIES` that takes residuals after each block: frozen, trained, or frozen with adapters.

    Args:
        pretrained: ``embedded`` for the small one that comes with the package, a diffusers folder (a transformer, or a pipeline with a
            ``transformer`` sub-folder), a hub id, or None to start from ``architecture`` with random weights.
        variant: Which set of its weights to read, such as ``fp16``; None for the plain one.
        revision: Branch, tag or commit of a hub id.
        architecture: Arguments of the transformer, where pretrained is None, as in its ``config.json``; ``_class_name`` among them names
            another class than ``SD3Transformer2DModel``.
        prediction: What the transformer's output stands for: ``velocity``, or ``sample``, the clean latent, which is turned into a velocity
            (arXiv 2511.13720). None for what is stored with the weights; ``velocity`` where nothing is.
        sigma_min: Least divisor of that conversion, ``(z - x) / max(sigma, sigma_min)``.
        flow_loss_on: What the pretraining's error is taken on, ``velocity`` or ``sample``: the second weighs noisy steps more.
        codec: Between images and latents; None for pixels.
        prompt: Safetensors file of the prompt embeddings, of ``mimdit prompts encode``; None for a token of zeros.
        prompt_text: Which of the file's prompts, where it holds several.
        unconditional_text: Which of the file's prompts stands for no prompt, in guidance and where the prompt is dropped.
        prompt_dropout: Share of training samples, 0..1, that get this one instead (classifier-free guidance, arXiv 2207.12598).
        trainable: Whether a restorer trains it too. Fitted on its own it always trains.
        lora: Adapters, which train instead of the transformer's own weights; None for none.
        dtype: Precision of the transformer's weights where they stay frozen, ``float32`` or ``bfloat16``; adapters are always fp32. An
            int8 folder of ``mimdit export`` brings its own.
        compile: Whether the transformer's blocks are compiled, each by itself (``torch.compile``).
        checkpointing: Whether the blocks' activations are computed again in the backward pass instead of being kept.
        flow: Path and draw of sigma for pretraining; None for SD3's. Only ``source: noise`` makes sense here.
        optimizer: Optimiser of the pretraining.
        scheduler: Its learning-rate schedule, stepped every optimiser step.
        seed: Seed of noise and sigma in pretraining.

    Raises:
        ValueError: The folder holds no transformer of a known family, the architecture has an unknown key, codec and transformer disagree
            about the latent channels, or options exclude each other.
    """

    def __init__(
        self,
        pretrained: str | None = "embedded",
        *,
        variant: str | None = None,
        revision: str | None = None,
        architecture: dict | None = None,
        prediction: str | None = None,
        sigma_min: float = 0.05,
        flow_loss_on: str = "velocity",
        codec: nn.Module | None = None,
        prompt: str | None = None,
        prompt_text: str | None = None,
        unconditional_text: str = "",
        prompt_dropout: float = 0.0,
        trainable: bool = False,
        lora: LoRA | None = None,
        dtype: str = "float32",
        compile: bool = False,
        checkpointing: bool = False,
        flow: FlowMatching | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_training(trainable, lora, dtype, prompt_dropout)
        if pretrained is None:
            if variant is not None or revision is not None:
                raise ValueError("variant and revision choose among pretrained weights, but pretrained is null; set it, or leave them out")
            self.transformer = _make_transformer(architecture or {})
        else:
            place = EMBEDDED_BACKBONE if pretrained == "embedded" else pretrained
            self.transformer = load_pretrained(KINDS, place, "transformer", variant=variant, revision=revision)
            if pretrained == "embedded":
                self.transformer.origin = Origin("embedded")  # its place differs from machine to machine
        set_prediction(self.transformer, prediction_of(self.transformer) if prediction is None else prediction)
        check_flow_loss(flow_loss_on, sigma_min)
        self.sigma_min, self.flow_loss_on = sigma_min, flow_loss_on
        self.codec = codec or PixelCodec()
        geometry = self.family.geometry(self.transformer)
        if geometry.latent_channels != self.codec.channels:
            raise ValueError(
                f"the transformer works on {geometry.latent_channels} latent channels but {type(self.codec).__name__} makes "
                f"{self.codec.channels}; give the codec that belongs to this backbone"
            )
        self.prompts = PromptEmbeddings(geometry.text_width, geometry.pooled_width, prompt, prompt_text, unconditional_text)
        if prompt_dropout > 0:
            self.prompts.require_unconditional(f"prompt_dropout={prompt_dropout}")
        self.flow = flow or FlowMatching()
        self.trainable, self.lora, self.seed, self.prompt_dropout = trainable, lora, seed, prompt_dropout
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.latent_channels, self.token_patch = geometry.latent_channels, geometry.token_patch
        self.token_dim, self.num_layers, self.max_size = geometry.token_dim, geometry.num_layers, geometry.max_size
        if is_int8(self.transformer):
            _check_int8(trainable, lora)
        elif dtype == "bfloat16":
            self.transformer.bfloat16()
        self.family.prepare(self.transformer)
        if lora is not None:
            add_lora(self.transformer, self.family, lora)
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
        if compile:
            self.compile_blocks()

    @property
    def family(self) -> Family:
        """What knows how to call this transformer."""
        return next(family for family in FAMILIES if isinstance(self.transformer, family.KIND))

    def encode(self, images: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Images ``[B, 3, H, W]`` in 0..1 to latents ``[B, C, h, w]`` fp32; ``draws`` as the codec's ``encode`` takes them."""
        return self.codec.encode(images, draws)

    def encode_side(self, batch: Batch, side: str, draws: list[str] | None = None) -> torch.Tensor:
        """Latents of the ``lq`` or ``gt`` of ``batch``, from its cached posterior where the batch holds one, else from its images."""
        cached = batch.get(f"{side}_latent")
        return self.encode(batch[side], draws) if cached is None else self.codec.from_moments(cached, draws)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to images, fp32, not clamped."""
        return self.codec.decode(latents)

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        residuals: list[torch.Tensor] | None = None,
        *,
        guidance: float = 1.0,
        dropped: torch.Tensor | None = None,
        anchor: torch.Tensor | None = None,
        output_layer: nn.Module | None = None,
    ) -> torch.Tensor:
        """Predict ``v = eps - x`` at the noisy ``latents [B, C, h, w]`` and ``sigma [B]``, steered by ``residuals``.

        Args:
            latents: The noisy latents.
            sigma: Their noise levels, in 0..1.
            residuals: Residual l ``[B, N, D]`` of L is added after transformer block l (not after the last); fewer than L are stretched
                over the depth.
            guidance: At g other than 1 a second, unconditional evaluation v_0 follows, and the result is ``v_0 + g (v - v_0)``
                (classifier-free guidance).
            dropped: ``[B]``, the images whose prompt is the unconditional one.
            anchor: ``[B, C, h, w]``; where given, the clean latent is ``anchor`` plus the output of the transformer with ``output_layer``
                in place of its last layer. Not in the paper.
            output_layer: See ``anchor``.
        """
        last = {"anchor": anchor, "output_layer": output_layer}
        if guidance != 1:
            self.prompts.require_unconditional(f"guidance={guidance}")
            without = self._predict(latents, sigma, residuals, torch.ones(len(latents), dtype=torch.bool), **last).float()
            return without + guidance * (self._predict(latents, sigma, residuals, dropped, **last).float() - without)
        return self._predict(latents, sigma, residuals, dropped, **last)

    forward = velocity

    @property
    def prediction(self) -> str:
        """The meaning of the transformer's output, one of `mimdit.backbone.prediction.PREDICTIONS`."""
        return prediction_of(self.transformer)

    def least_divisor(self, anchored: bool = False) -> float:
        """Return the least divisor where the velocity is made of a sample, predicted or anchored; 0 where it is predicted itself."""
        return self.sigma_min if anchored or self.prediction == "sample" else 0.0

    def _predict(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        residuals: list[torch.Tensor] | None,
        dropped: torch.Tensor | None,
        *,
        anchor: torch.Tensor | None,
        output_layer: nn.Module | None,
    ) -> torch.Tensor:
        with replaced_output(self.transformer, output_layer):
            output = self._output(latents, sigma, residuals, dropped)
        if anchor is not None:
            return sample_to_velocity(anchor.float() + output.float(), latents, sigma, self.sigma_min)
        return sample_to_velocity(output, latents, sigma, self.sigma_min) if self.prediction == "sample" else output

    def _output(
        self, latents: torch.Tensor, sigma: torch.Tensor, residuals: list[torch.Tensor] | None, dropped: torch.Tensor | None
    ) -> torch.Tensor:
        tokens, pooled = self.prompts(len(latents), dropped)
        dtype = self.transformer.dtype
        if residuals is not None and dtype != torch.float32:  # fp32 ones would raise the token stream above the weights' precision
            residuals = [residual.to(dtype) for residual in residuals]
        return self.family.velocity(self.transformer, latents.to(dtype), sigma.float(), tokens.to(dtype), pooled.to(dtype), residuals)

    def drop_prompts(self, draws: list[str], seed: int) -> torch.Tensor | None:
        """Whose prompt is dropped in training, ``[B]`` booleans drawn by the seed and each image's `draw_names`; None for nobody's."""
        if self.prompt_dropout == 0:
            return None
        drawn = [torch.rand((), dtype=torch.float32, generator=keyed_generator("prompt", seed, draw)) for draw in draws]
        return torch.stack(drawn) < self.prompt_dropout

    def flow_loss(self, batch: Batch, step: int, *, drop_prompts: bool = False) -> torch.Tensor:
        """Mean squared error on the clean images of ``batch``, of what ``flow_loss_on`` names; noise is drawn by (seed, step, key)."""
        draws = draw_names(batch, step)
        clean = self.encode_side(batch, "gt", draws)
        noise, sigma = draw_path(self.flow, clean, draws, self.seed)
        latents, target = self.flow.interpolate(clean, noise, sigma)
        dropped = self.drop_prompts(draws, self.seed) if drop_prompts else None
        velocity = self.velocity(latents, sigma, dropped=dropped).float()
        return flow_error(velocity, target, sigma, on=self.flow_loss_on, sigma_min=self.least_divisor()).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """One step of flow-matching pretraining."""
        loss = self.flow_loss(batch, self.global_step, drop_prompts=True)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["key"]))
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same loss on held-out images, with the prompt, and the same noise at every validation."""
        self.log("val/loss", self.flow_loss(batch, 0), batch_size=len(batch["key"]), sync_dist=True)

    def configure_optimizers(self) -> dict:
        """Everything trains but the codec, and the text stream of the last block, which nothing reads; or the adapters alone."""
        if self.lora is None and self.transformer.dtype != torch.float32:
            raise ValueError("dtype: bfloat16 is for weights that stay frozen, but this backbone trains; use float32, or add lora")
        return optimizer_and_schedule(self.transformer, self.make_optimizer, self.make_scheduler)

    def choose_what_trains(self, reached: bool, *, own_output: bool = True) -> None:
        """Let train what a restorer trains: the transformer, its adapters or nothing; nothing too where no loss has ``reached`` it.

        ``own_output`` is False where another layer stands for the transformer's last one, which then gets no gradient, nor do its adapters.
        """
        self.requires_grad_(self.trainable and reached)
        self.transformer.proj_out.requires_grad_(self.trainable and reached and own_output)
        self.codec.requires_grad_(False)
        for name, parameter in self.transformer.named_parameters():
            if is_adapter(name):
                parameter.requires_grad_(reached and (own_output or not name.startswith("proj_out.")))

    def compile_blocks(self) -> None:
        """Compile the transformer's blocks, each by itself."""
        for block in self.transformer.transformer_blocks:
            block.compile()

    def shard_units(self) -> list[list[nn.Module]]:
        """What a sharded strategy gathers together: each of the transformer's blocks, and what is around them."""
        return [*([block] for block in self.transformer.transformer_blocks), [self.transformer]]

    def frozen_state(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """What a restorer's checkpoints leave out: the codec, and the transformer but for its adapters, unless it trains."""
        frozen = f"{prefix}codec." if self.trainable else prefix
        return {name: tensor for name, tensor in self.state_dict(prefix=prefix).items() if name.startswith(frozen) and not is_adapter(name)}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Fitted alone: with adapters, leave the weights out that they were trained on."""
        if self.lora is not None:
            leave_out(checkpoint, self.frozen_state(), self.frozen_identity)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Put those back, if they are the same."""
        if self.lora is not None:
            put_back(checkpoint, self.frozen_state(), self.frozen_identity)

    @cached_property
    def frozen_identity(self) -> dict[str, Identity]:
        """The `identity` of each part that checkpoints leave out: the codec, and the transformer unless all of it trains.

        Those weights never change, so they are read once.
        """
        parts = {"codec": self.codec} if self.trainable else {"transformer": self.transformer, "codec": self.codec}
        return {name: identity(part) for name, part in parts.items() if part.state_dict()}

    def load_lora(self, folder: str | Path) -> None:
        """Read the adapters in ``folder`` into this backbone, which gets them if it has none; ValueError where they do not fit."""
        self.lora = load_lora(self.transformer, folder)

    def round_weights(self, dtype: torch.dtype) -> None:
        """Give the transformer's weights the values that they have in ``dtype``, and the identity that goes with them."""
        own = self.transformer.dtype
        self.transformer.to(dtype).to(own)
        vars(self).pop("frozen_identity", None)

    def quantize(self, dtype: torch.dtype) -> None:
        """Hold the transformer's linear layers in int8 and compute in ``dtype`` (`mimdit.backbone.int8`); its identity changes with it."""
        self.transformer = quantize_transformer(self.transformer, dtype)
        self.family.prepare(self.transformer)
        self.transformer.requires_grad_(False)
        vars(self).pop("frozen_identity", None)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the transformer in diffusers' layout, safetensors, in ``dtype``; int8 as it is; of adapters these alone, in fp32."""
        if self.lora is not None:
            save_lora(self.transformer, folder)
            return
        transformer = self.transformer if is_int8(self.transformer) else copy.deepcopy(self.transformer).to(dtype)
        transformer.save_pretrained(folder, safe_serialization=True)


def _check_training(trainable: bool, lora: LoRA | None, dtype: str, prompt_dropout: float) -> None:
    if trainable and lora is not None:
        raise ValueError("trainable: true trains every weight of the backbone, and lora adapters instead of them; choose one of the two")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose {' or '.join(DTYPES)}")
    if trainable and dtype != "float32":
        raise ValueError(f"dtype: {dtype} is for weights that stay frozen; with trainable: true use float32")
    if not 0 <= prompt_dropout <= 1:
        raise ValueError(f"prompt_dropout={prompt_dropout} is outside [0, 1]")


def _check_int8(trainable: bool, lora: LoRA | None) -> None:
    if trainable or lora is not None:
        raise ValueError("an int8 transformer is for use, not for training; train the one it was made from")


def _make_transformer(architecture: dict) -> ModelMixin:
    """A transformer with random weights."""
    kinds = {kind.__name__: kind for kind in KINDS}
    name = architecture.get("_class_name", sd3.KIND.__name__)
    if name not in kinds:
        raise ValueError(f"architecture: _class_name {name!r} is of no known family; choose one of {', '.join(kinds)}")
    arguments = {key: value for key, value in architecture.items() if not key.startswith("_")}
    prediction = arguments.pop("prediction_type", "velocity")  # in a config.json, but no argument of diffusers' class
    known = inspect.signature(kinds[name].__init__).parameters
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"architecture: {name} does not take {', '.join(unknown)}; it takes {', '.join([*known][1:])}")
    transformer = kinds[name](**arguments)
    set_prediction(transformer, prediction)
    return transformer
