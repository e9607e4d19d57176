"""Pretrained diffusion transformer, and the codecs between images and its latents."""

from mimdit.backbone.codec import PixelCodec, VAECodec
from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.lora import LoRA

__all__ = ["DiTBackbone", "LoRA", "PixelCodec", "VAECodec"]
