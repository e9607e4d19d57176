"""Checkpoints in diffusers' layouts, of SD3, PixArt and FLUX.1, with random weights and a few thousand parameters."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, ModelMixin, PixArtTransformer2DModel, SD3Transformer2DModel

from tests.tiny_models import ARCHITECTURE, FLUX, PIXART, randomize

LATENT = ARCHITECTURE | {"patch_size": 2, "in_channels": 4, "out_channels": 4, "sample_size": 16}

FAMILY = {
    "sd3-medium": LATENT | {"pos_embed_max_size": 12},
    "sd3.5-medium": LATENT | {"pos_embed_max_size": 24, "num_layers": 3, "dual_attention_layers": [0, 1], "qk_norm": "rms_norm"},
    "sd3.5-large": LATENT | {"pos_embed_max_size": 12, "num_layers": 4, "qk_norm": "rms_norm"},
}
"""Members of the SD3 family; they differ in depth, second attention, normed queries and keys, and position table."""

OTHERS = {
    "pixart-alpha": {"sample_size": 128, "num_attention_heads": 3, "cross_attention_dim": 24, "num_layers": 3},
    "pixart-sigma": {"sample_size": 32},
    "flux.1-dev": {"in_channels": 16, "guidance_embeds": True, "num_layers": 3},
    "flux.1-schnell": {"in_channels": 16, "guidance_embeds": False},
}
"""PixArt with the image size as an input (the first release, for images of 1024 pixels), and without; FLUX.1 with guidance as an input, and
without."""

LAYOUTS = ("pipeline", "transformer", "sharded", "variant", "sharded variant")

VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "sample_size": 32,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""Autoencoder of SD3's kind: shifted, without convolutions around the latents."""


def tiny_transformer(member: str, seed: int = 0, **sizes) -> ModelMixin:
    """Return a transformer of `FAMILY` or `OTHERS` with random nonzero weights; ``sizes`` change its architecture."""
    if member.startswith("flux"):
        sizes = {name: value for name, value in FLUX.items() if name != "_class_name"} | OTHERS[member] | sizes
        model = FluxTransformer2DModel(**sizes).eval()
    elif member in OTHERS:
        latent = {"patch_size": 2, "in_channels": 4, "out_channels": 8} | OTHERS[member] | sizes
        model = PixArtTransformer2DModel(**{name: value for name, value in PIXART.items() if name != "_class_name"} | latent).eval()
    else:
        model = SD3Transformer2DModel(**FAMILY[member] | sizes).eval()
    randomize(model, seed)
    return model


def tiny_vae(seed: int = 0) -> AutoencoderKL:
    """Return an autoencoder with random weights for latents of 4 channels at half the size."""
    model = AutoencoderKL(**VAE).eval()
    randomize(model, seed, scale=0.1)
    return model


def write_checkpoint(model: ModelMixin, folder: Path, layout: str) -> dict:
    """Write ``model`` in one of the `LAYOUTS`; return the arguments with which ``DiTBackbone`` loads it."""
    if layout in ("pipeline", "transformer"):
        model.save_pretrained(folder if layout == "transformer" else folder / "transformer")
    elif layout == "sharded":
        model.save_pretrained(folder, max_shard_size="20KB")
    else:  # a variant, with other weights beside it under the plain name
        model.half().save_pretrained(folder, variant="fp16", max_shard_size="10KB" if layout.startswith("sharded") else "10GB")
        model.float()
        tiny = type(model).from_config(model.config)
        tiny.save_pretrained(folder / "other")
        (folder / "other" / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.safetensors")
    if layout == "pipeline":
        tiny_vae().save_pretrained(folder / "vae")
        pipelines = {SD3Transformer2DModel: "StableDiffusion3Pipeline", FluxTransformer2DModel: "FluxPipeline"}
        pipeline = pipelines.get(type(model), "PixArtAlphaPipeline")
        parts = {"transformer": ["diffusers", type(model).__name__], "vae": ["diffusers", "AutoencoderKL"]}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline} | parts))
    return {"pretrained": str(folder), "variant": "fp16" if "variant" in layout else None}


def latents(seed: int = 0) -> torch.Tensor:
    """Return two latents ``[2, 4, 16, 16]``."""
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
