"""DiTBackbone: an unforked diffusers transformer with its codec and prompt; fitting it by itself is the pretraining stage."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from mimdit.backbone import inner_experts, saving
from mimdit.backbone.checks import check_int8, check_training, checked_guidance, refuse_unconditional
from mimdit.backbone.codec import Codec, PixelCodec
from mimdit.backbone.families import KINDS, family_of, make_transformer
from mimdit.backbone.family import Family, blocks_of
from mimdit.backbone.identity import Identity, check_training_latents, identity, leave_out, put_back
from mimdit.backbone.inner_experts import InnerExperts, expert_losses, is_expert, watched_tokens
from mimdit.backbone.int8 import is_int8
from mimdit.backbone.lora import LoRA, add_lora, is_adapter, load_lora
from mimdit.backbone.prediction import prediction_of, replaced_output, sample_to_velocity, set_prediction
from mimdit.backbone.pretrained import Origin, load_pretrained, set_origin
from mimdit.backbone.prompts import PromptEmbeddings, Prompts
from mimdit.core.batch import Batch, draw_names
from mimdit.core.connected_trainer import has_progress_bar
from mimdit.core.rng import keyed_generator
from mimdit.flow import FlowMatching, draw_path
from mimdit.routing.router import outside_autocast
from mimdit.routing.token_routing import OnTokens, TokenRouting, token_outputs
from mimdit.training.losses import check_flow_loss, flow_error
from mimdit.training.optimization import clip_gradients, optimizer_and_schedule
from mimdit.weights import EMBEDDED_BACKBONE


class DiTBackbone(L.LightningModule):
    """Diffusion transformer that takes residuals after its blocks: frozen, trained, or frozen with adapters (paper: the pretrained DiT).

    The paper does not name its base model.

    Args:
        pretrained: ``embedded`` for the small transformer that comes with the package, a diffusers folder (a transformer, or a pipeline
            with a ``transformer`` sub-folder), a hub id, or None to start from ``architecture`` with random weights.
        variant: Variant of the weights, such as ``fp16``; None for the default.
        revision: Branch, tag or commit of a hub id.
        architecture: Arguments of the transformer where ``pretrained`` is None, as in its ``config.json``; ``_class_name`` among them names
            a class other than ``SD3Transformer2DModel``.
        prediction: Meaning of the transformer's output: ``velocity``, or ``sample``, the clean latent, which is converted to a velocity
            (arXiv 2511.13720). None for the one stored with the weights, ``velocity`` where none is stored.
        sigma_min: Smallest divisor of that conversion, ``(z - x) / max(sigma, sigma_min)``.
        flow_loss_on: Quantity whose error is the pretraining loss: ``velocity`` or ``sample``, which weights noisy steps more.
        codec: Conversion between images and latents; None for pixels.
        prompt: Safetensors file of prompt embeddings, written by ``mimdit prompts encode``; None for one token of zeros.
        prompt_text: Prompt to use, where the file holds several.
        unconditional_text: Prompt that stands for no prompt, in guidance and where the prompt is dropped.
        prompt_dropout: Fraction of training samples, 0..1, that get the unconditional prompt (classifier-free guidance, arXiv 2207.12598).
        embedded_guidance: Guidance, at least 0, that FLUX.1 [dev] takes as an input; None for 3.5, the default of its pipeline. It costs
            nothing, unlike classifier-free guidance, which this family refuses.
        trainable: If true, a restorer trains the transformer too. Fitted by itself, the transformer always trains.
        lora: Adapters that train instead of the transformer's own weights; None for no adapters.
        moe: Experts beside every n-th feed-forward, which train also where the transformer is frozen; None for those that the folder
            ``pretrained`` holds, usually none. Not in the paper.
        dtype: Precision of the transformer's weights where they stay frozen, ``float32`` or ``bfloat16``; adapters are always fp32. An
            int8 folder of ``mimdit export`` has a precision of its own.
        compile: If true, compile each transformer block (``torch.compile``).
        checkpointing: If true, recompute the blocks' activations in the backward pass instead of storing them.
        flow: Path and distribution of sigma for pretraining; None for SD3's. Use ``source: noise`` here.
        optimizer: Optimizer of the pretraining.
        scheduler: Learning-rate schedule of the pretraining, stepped once per optimizer step.
        seed: Seed of noise and sigma in pretraining.

    Raises:
        ValueError: The folder holds no transformer of a supported family, the architecture has an unknown key, codec and transformer
            disagree about the latent channels, or options exclude each other.
    """

    def __init__(
        self,
        pretrained: str | None = "embedded",
        *,
        variant: str | None = None,
        revision: str | None = None,
        architecture: dict[str, bool | int | float | str | list | dict | None] | None = None,
        prediction: str | None = None,
        sigma_min: float = 0.05,
        flow_loss_on: str = "velocity",
        codec: nn.Module | None = None,
        prompt: str | None = None,
        prompt_text: str | None = None,
        unconditional_text: str = "",
        prompt_dropout: float = 0.0,
        embedded_guidance: float | None = None,
        trainable: bool = False,
        lora: LoRA | None = None,
        moe: InnerExperts | None = None,
        dtype: str = "float32",
        compile: bool = False,
        checkpointing: bool = False,
        flow: FlowMatching | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_training(trainable, lora, dtype, prompt_dropout)
        if pretrained is None:
            if variant is not None or revision is not None:
                raise ValueError("variant and revision choose among pretrained weights, but pretrained is null; set it, or leave them out")
            self.transformer = make_transformer(architecture or {})
        else:
            place = EMBEDDED_BACKBONE if pretrained == "embedded" else pretrained
            self.transformer = load_pretrained(KINDS, place, "transformer", variant=variant, revision=revision, dtype=getattr(torch, dtype))
            if pretrained == "embedded":
                set_origin(self.transformer, Origin("embedded"))  # its path differs from machine to machine
        set_prediction(self.transformer, prediction_of(self.transformer) if prediction is None else prediction)
        check_flow_loss(flow_loss_on, sigma_min)
        self.sigma_min, self.flow_loss_on = sigma_min, flow_loss_on
        self.codec = cast(Codec, codec or PixelCodec())
        geometry = self.family.geometry(self.transformer)
        if geometry.latent_channels != self.codec.channels:
            raise ValueError(
                f"the transformer works on {geometry.latent_channels} latent channels but {type(self.codec).__name__} makes "
                f"{self.codec.channels}; give the codec that belongs to this backbone"
            )
        self.classifier_free, self.embedded_guidance = geometry.classifier_free, geometry.guidance
        if embedded_guidance is not None:
            self.embedded_guidance = checked_guidance(embedded_guidance, self.transformer, geometry.guidance)
        self.prompts = PromptEmbeddings(geometry.text_width, geometry.pooled_width, prompt, prompt_text, unconditional_text)
        if prompt_dropout > 0:
            self.require_unconditional(f"prompt_dropout={prompt_dropout}", prompting=self.prompts.reads_text)
        self.flow = flow or FlowMatching()
        self.trainable, self.lora, self.seed, self.prompt_dropout = trainable, lora, seed, prompt_dropout
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.latent_channels, self.token_patch = geometry.latent_channels, geometry.token_patch
        self.token_dim, self.num_layers, self.max_size = geometry.token_dim, geometry.num_layers, geometry.max_size
        if is_int8(self.transformer):
            check_int8(trainable, lora, moe)
        elif dtype == "bfloat16":
            self.transformer.bfloat16()
        self.family.prepare(self.transformer)
        if lora is not None:
            add_lora(self.transformer, self.family, lora)
        self.moe = inner_experts.with_saved(moe, self.transformer)
        if self.moe is not None:
            inner_experts.add_experts(self.transformer, self.moe)
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
        if compile:
            self.compile_blocks()

    @property
    def family(self) -> Family[Any]:
        """Family of the transformer."""
        return family_of(self.transformer)

    def encode(self, images: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Encode images ``[B, 3, H, W]`` in 0..1 as latents ``[B, C, h, w]``, fp32; ``draws`` as in the codec's ``encode``."""
        return self.codec.encode(images, draws)

    def encode_side(self, batch: Batch, side: str, draws: list[str] | None = None) -> torch.Tensor:
        """Return latents of the ``lq`` or ``gt`` of ``batch``, from its cached posterior if it has one, else from its images."""
        cached = batch.get(f"{side}_latent")
        return self.encode(batch[side], draws) if cached is None else self.codec.from_moments(cached, draws)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents ``[B, C, h, w]`` to fp32 images ``[B, 3, H, W]``, nominally in 0..1 but not clamped."""
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
        prompts: Prompts | None = None,
        on_tokens: OnTokens | None = None,
    ) -> torch.Tensor:
        """Predict ``v = eps - x`` at the noisy ``latents [B, C, h, w]`` and ``sigma [B]``, steered by ``residuals``.

        Args:
            latents: The noisy latents.
            sigma: Their noise levels, in 0..1.
            residuals: L tensors ``[B, N, D]``; residual l is added after transformer block l, but not after the last. Fewer than L are
                stretched over the depth. None for no steering.
            guidance: Guidance scale g. At 1 the transformer runs once. At any other value it also computes the unconditional velocity
                v_0, and the result is ``v_0 + g (v - v_0)`` (classifier-free guidance).
            dropped: Booleans ``[B]``, true for images that get the unconditional prompt; None for no image.
            anchor: Anchor ``[B, C, h, w]`` of the predicted clean latent, which is then ``anchor`` plus the output of the transformer with
                ``output_layer`` in place of its last layer. Not in the paper.
            output_layer: Replacement of the transformer's last layer; see ``anchor``.
            prompts: Prompts of the images; None for the backbone's, the same for all. Not in the paper.
            on_tokens: Called after each pass through a transformer with ``moe`` with the routing of its tokens; None collects nothing.

        Raises:
            ValueError: ``guidance`` is not 1 and there is no unconditional prompt, or the weights are of a family that embeds its guidance.
        """
        passes = [dropped]
        if guidance != 1:
            self.require_unconditional(f"guidance={guidance}", prompting=prompts is not None)
            passes = [torch.ones(len(latents), dtype=torch.bool), dropped]
        velocities = []
        for whose in passes:
            with replaced_output(self.transformer, output_layer):
                output = self._predict(latents, sigma, residuals, whose, prompts, on_tokens)
            if anchor is not None:
                output = anchor.float() + output.float()
            is_sample = anchor is not None or self.prediction == "sample"
            velocities.append(sample_to_velocity(output, latents, sigma, self.sigma_min) if is_sample else output)
        if guidance == 1:
            return velocities[0]
        without, conditional = (velocity.float() for velocity in velocities)
        return without + guidance * (conditional - without)

    forward = velocity

    def require_unconditional(self, why: str, *, prompting: bool = False) -> None:
        """Raise ValueError if classifier-free guidance is impossible; ``why`` names the option that needs it.

        Args:
            why: The option and its value.
            prompting: If true, prompts are chosen by degradation or text, as in `PromptEmbeddings.require_unconditional`.
        """
        if not self.classifier_free:
            refuse_unconditional(why, self.transformer, self.embedded_guidance)
        self.prompts.require_unconditional(why, prompting=prompting)

    @property
    def prediction(self) -> str:
        """Meaning of the transformer's output, one of `mimdit.backbone.prediction.PREDICTIONS`."""
        return prediction_of(self.transformer)

    def min_divisor(self, anchored: bool = False) -> float:
        """Return the smallest divisor of the conversion from sample to velocity; 0 if the transformer predicts the velocity itself."""
        return self.sigma_min if anchored or self.prediction == "sample" else 0.0

    def _predict(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        residuals: list[torch.Tensor] | None,
        dropped: torch.Tensor | None,
        prompts: Prompts | None = None,
        on_tokens: OnTokens | None = None,
    ) -> torch.Tensor:
        """Evaluate the transformer, in the precision of its weights; sigma stays fp32.

        A transformer with weights of less than fp32 runs without autocast, which would only add fp32 copies in its norms: by
        simulation a sixth of a step's memory traffic at the size of SD3.5-medium. Adapters are fp32 and need autocast.
        """
        tokens, pooled = self.prompts(len(latents), dropped, prompts)
        dtype = self.transformer.dtype
        if residuals is not None and dtype != torch.float32:  # fp32 residuals would promote the token stream to fp32
            residuals = [residual.to(dtype) for residual in residuals]
        own_precision = dtype != torch.float32 and self.lora is None
        with outside_autocast(latents) if own_precision else nullcontext(), watched_tokens(self.transformer, sigma, on_tokens):
            return self.family.predict(
                self.transformer, latents.to(dtype), sigma.float(), tokens.to(dtype), pooled.to(dtype), residuals, self.embedded_guidance
            )

    def drop_prompts(self, draws: list[str], seed: int) -> torch.Tensor | None:
        """Draw the images whose prompt is dropped in training: booleans ``[B]``, keyed by seed and `draw_names`; None without dropout."""
        if self.prompt_dropout == 0:
            return None
        drawn = [torch.rand((), dtype=torch.float32, generator=keyed_generator("prompt", seed, draw)) for draw in draws]
        return torch.stack(drawn) < self.prompt_dropout

    def flow_loss(self, batch: Batch, step: int, *, drop_prompts: bool = False, on_tokens: OnTokens | None = None) -> torch.Tensor:
        """Return the flow-matching loss on the clean images of ``batch``; noise is keyed by seed, step and image."""
        draws = draw_names(batch, step)
        clean = self.encode_side(batch, "gt", draws)
        noise, sigma = draw_path(self.flow, clean, draws, self.seed)
        latents, target = self.flow.interpolate(clean, noise, sigma)
        dropped = self.drop_prompts(draws, self.seed) if drop_prompts else None
        velocity = self.velocity(latents, sigma, dropped=dropped, on_tokens=on_tokens).float()
        return flow_error(velocity, target, sigma, on=self.flow_loss_on, sigma_min=self.min_divisor()).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Run one step of flow-matching pretraining; with ``moe`` add the routing losses of its tokens, and return their routing."""
        routings: list[TokenRouting] = []
        loss = self.flow_loss(batch, self.global_step, drop_prompts=True, on_tokens=routings.append)
        for name, value in expert_losses(self.moe, routings).items():
            self.log(f"train/loss/{name}", value.detach(), batch_size=len(batch["key"]))
            loss = loss + value
        self.log("train/loss", loss, prog_bar=has_progress_bar(self), batch_size=len(batch["key"]))
        return {"loss": loss} | token_outputs(routings)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the same loss on held-out images, with the prompt and with the same noise at every validation."""
        self.log("val/loss", self.flow_loss(batch, 0), batch_size=len(batch["key"]), sync_dist=True)

    def configure_optimizers(self) -> dict:
        """Optimize the transformer, or only its adapters where there are any; the codec stays frozen.

        Raises:
            ValueError: The weights that train are in bf16.
        """
        if self.lora is None and self.transformer.dtype != torch.float32:
            raise ValueError("dtype: bfloat16 is for weights that stay frozen, but this backbone trains; use float32, or add lora")
        return optimizer_and_schedule(self.transformer, self.make_optimizer, self.make_scheduler)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients as the Trainer is configured."""
        clip_gradients(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def choose_what_trains(self, reached: bool, *, own_output: bool = True) -> None:
        """Set ``requires_grad`` for training by a restorer: of the transformer, of its adapters, of its experts, or of nothing.

        Args:
            reached: If false, no loss reaches the transformer, and nothing trains.
            own_output: If false, another layer replaces the transformer's last one, which then gets no gradient; neither do its adapters.
        """
        self.requires_grad_(self.trainable and reached)
        self.transformer.proj_out.requires_grad_(self.trainable and reached and own_output)
        self.codec.requires_grad_(False)
        for name, parameter in self.transformer.named_parameters():
            if is_expert(name):
                parameter.requires_grad_(reached)
            if is_adapter(name):
                parameter.requires_grad_(reached and (own_output or not name.startswith("proj_out.")))

    def setup(self, stage: str) -> None:
        """Refuse cached training latents made by an autoencoder other than the codec."""
        if stage == "fit":
            check_training_latents(getattr(self.trainer, "datamodule", None), self.codec)

    def compile_blocks(self) -> None:
        """Compile each transformer block."""
        for block in blocks_of(self.transformer):
            block.compile()

    def shard_units(self) -> list[list[nn.Module]]:
        """Return the modules that a sharded strategy gathers together: each transformer block, and the transformer around them."""
        return [*([block] for block in blocks_of(self.transformer)), [self.transformer]]

    def frozen_state(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Return the weights that a restorer's checkpoints omit: the codec and, unless it trains, the transformer itself.

        Adapters and experts train in any case.
        """
        frozen = f"{prefix}codec." if self.trainable else prefix
        state = {name: tensor for name, tensor in self.state_dict(prefix=prefix).items() if name.startswith(frozen)}
        return {name: tensor for name, tensor in state.items() if not (is_adapter(name) or is_expert(name))}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Omit the frozen weights from a checkpoint of adapters."""
        if self.lora is not None:
            leave_out(checkpoint, self.frozen_state(), self.frozen_identity)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore the omitted weights after checking that they are the ones trained on."""
        if self.lora is not None:
            put_back(checkpoint, self.frozen_state(), self.frozen_identity)

    @cached_property
    def frozen_identity(self) -> dict[str, Identity]:
        """`identity` of each part that checkpoints omit: the codec and, unless it trains, the transformer.

        Computed once, because those weights never change.
        """
        parts = {"codec": self.codec} if self.trainable else {"transformer": self.transformer, "codec": self.codec}
        return {name: identity(part) for name, part in parts.items() if part.state_dict()}

    def load_lora(self, folder: str | Path) -> None:
        """Load the adapters in ``folder``, and add adapters first where there are none; ValueError if they do not fit."""
        self.lora = load_lora(self.transformer, folder)

    def load_experts(self, folder: str | Path) -> None:
        """Load the experts in ``folder``, and add experts first where there are none; ValueError if they do not fit."""
        self.moe = inner_experts.load_or_add(self.transformer, folder, self.moe)

    def save_experts(self, folder: str | Path) -> None:
        """Write the experts, fp32, to ``folder``; a backbone without ``moe`` writes nothing."""
        if self.moe is not None:
            inner_experts.save_experts(self.transformer, folder, self.moe)

    def to_dtype(self, dtype: torch.dtype) -> None:
        """Convert the transformer's weights to ``dtype``; adapters and experts keep theirs."""
        saving.convert(self, dtype)

    def round_weights(self, dtype: torch.dtype) -> None:
        """Round the transformer's weights to ``dtype`` but keep their own dtype; the identity changes with them."""
        saving.round_weights(self, dtype)

    def quantize(self, dtype: torch.dtype) -> None:
        """Quantize the transformer's linear layers to int8 and compute in ``dtype`` (`mimdit.backbone.int8`); the identity changes.

        Experts stay as they are.
        """
        saving.quantize(self, dtype)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16, experts: bool = True) -> None:
        """Write the transformer in diffusers' layout, safetensors, in ``dtype`` (int8 unchanged), or only its adapters, in fp32.

        Experts are in a file of their own, beside either, unless ``experts`` is false.
        """
        saving.save(self, folder, dtype=dtype, experts=experts)
