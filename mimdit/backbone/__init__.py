"""Pretrained diffusion transformer, and the codecs between images and its latents."""

from mimdit.backbone.codec import PixelCodec, VAECodec
from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.inner_experts import InnerExperts
from mimdit.backbone.lora import LoRA

__all__ = ["DiTBackbone", "InnerExperts", "LoRA", "PixelCodec", "VAECodec"]
