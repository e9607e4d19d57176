"""DiTBackbone: diffusers' SD3 transformer, unforked, with its codec and prompt. Fitted on its own, it is the pretraining stage."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import lightning as L
import torch
from diffusers import SD3Transformer2DModel
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from mimdit.backbone.codec import PixelCodec
from mimdit.backbone.pretrained import load_pretrained
from mimdit.backbone.prompts import PromptEmbeddings
from mimdit.batch import Batch, draw_names
from mimdit.flow import FlowMatching, keyed_generator
from mimdit.optimization import parameter_groups
from mimdit.weights import EMBEDDED_BACKBONE


class DiTBackbone(L.LightningModule):
    """A diffusion transformer of the SD3 family (arXiv 2403.03206) that takes residuals after each block.

    Args:
        pretrained: ``embedded`` for the small one that comes with the package, a diffusers folder (a transformer, or a pipeline with a
            ``transformer`` sub-folder), a hub id, or None to start from ``architecture`` with random weights.
        variant: Which set of its weights to read, such as ``fp16``; None for the plain one.
        revision: Branch, tag or commit of a hub id.
        architecture: Arguments of ``SD3Transformer2DModel``, where pretrained is None.
        codec: Between images and latents; None for pixels.
        prompt: Safetensors file of the prompt embeddings, of ``mimdit prompts encode``; None for a token of zeros.
        prompt_text: Which of the file's prompts, where it holds several.
        trainable: Whether a restorer trains it too. Fitted on its own it always trains.
        flow: Path and draw of sigma for pretraining; None for SD3's. Only ``source: noise`` makes sense here.
        optimizer: Optimiser of the pretraining.
        scheduler: Its learning-rate schedule, stepped every optimiser step.
        seed: Seed of noise and sigma in pretraining.

    Raises:
        ValueError: The folder holds no SD3 transformer, the architecture has an unknown key, or codec and transformer disagree about the
            latent channels.
    """

    def __init__(
        self,
        pretrained: str | None = "embedded",
        *,
        variant: str | None = None,
        revision: str | None = None,
        architecture: dict | None = None,
        codec: nn.Module | None = None,
        prompt: str | None = None,
        prompt_text: str | None = None,
        trainable: bool = False,
        flow: FlowMatching | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pretrained is None:
            if variant is not None or revision is not None:
                raise ValueError("variant and revision choose among pretrained weights, but pretrained is null; set it, or leave them out")
            self.transformer = _make_transformer(architecture or {})
        else:
            place = EMBEDDED_BACKBONE if pretrained == "embedded" else pretrained
            self.transformer = load_pretrained(SD3Transformer2DModel, place, "transformer", variant=variant, revision=revision)
        self.codec = codec or PixelCodec()
        config = self.transformer.config
        if config.in_channels != self.codec.channels:
            raise ValueError(
                f"the transformer works on {config.in_channels} latent channels but {type(self.codec).__name__} makes "
                f"{self.codec.channels}; give the codec that belongs to this backbone"
            )
        self.prompts = PromptEmbeddings(config.joint_attention_dim, config.pooled_projection_dim, prompt, prompt_text)
        self.flow = flow or FlowMatching()
        self.trainable, self.seed = trainable, seed
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.latent_channels, self.token_patch = config.in_channels, config.patch_size
        self.token_dim, self.num_layers = self.transformer.inner_dim, config.num_layers
        self.max_size = config.pos_embed_max_size * config.patch_size

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

    def velocity(self, latents: torch.Tensor, sigma: torch.Tensor, residuals: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Predict ``v = eps - x`` at the noisy ``latents [B, C, h, w]`` and ``sigma [B]``, steered by ``residuals``.

        Residual l ``[B, N, D]`` of L is added after transformer block l (not after the last); fewer than L are stretched over the depth.
        """
        tokens, pooled = self.prompts(len(latents))
        dtype = self.transformer.dtype
        return self.transformer(
            hidden_states=latents.to(dtype),
            encoder_hidden_states=tokens.to(dtype),
            pooled_projections=pooled.to(dtype),
            timestep=sigma.float() * 1000,
            block_controlnet_hidden_states=residuals,
            return_dict=False,
        )[0]

    forward = velocity

    def flow_loss(self, batch: Batch, step: int) -> torch.Tensor:
        """Mean squared error of the velocity on the clean images of ``batch``; noise and sigma are drawn by (seed, step, key)."""
        draws = draw_names(batch, step)
        clean = self.encode_side(batch, "gt", draws)
        noise, sigma = draw_path(self.flow, clean, draws, self.seed)
        latents, target = self.flow.interpolate(clean, noise, sigma)
        return nn.functional.mse_loss(self.velocity(latents, sigma).float(), target)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """One step of flow-matching pretraining."""
        loss = self.flow_loss(batch, self.global_step)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["key"]))
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same loss on held-out images, with the same noise at every validation."""
        self.log("val/loss", self.flow_loss(batch, 0), batch_size=len(batch["key"]), sync_dist=True)

    def configure_optimizers(self) -> dict:
        """Everything trains but the codec, and the text stream of the last block, which nothing reads."""
        optimizer = self.make_optimizer(parameter_groups(self.transformer))
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"}}

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the transformer in diffusers' layout, safetensors, in ``dtype``."""
        copy.deepcopy(self.transformer).to(dtype).save_pretrained(folder, safe_serialization=True)


def draw_path(flow: FlowMatching, latents: torch.Tensor, draws: list[str], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise like ``latents`` and ``sigma [B]``, drawn by the seed and each image's `draw_names`: ranks and resumption change no sample."""
    generators = [keyed_generator(seed, draw) for draw in draws]
    sigma = torch.stack([flow.draw_sigma(generator) for generator in generators])
    noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators])
    return noise.to(latents.device), sigma.to(latents.device)


def _make_transformer(architecture: dict) -> SD3Transformer2DModel:
    """A transformer with random weights."""
    known = inspect.signature(SD3Transformer2DModel.__init__).parameters
    unknown = sorted(set(architecture) - set(known))
    if unknown:
        raise ValueError(f"architecture: SD3Transformer2DModel does not take {', '.join(unknown)}; it takes {', '.join([*known][1:])}")
    return SD3Transformer2DModel(**architecture)
