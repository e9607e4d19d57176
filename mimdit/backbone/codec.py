"""Codecs: from images ``[B, 3, H, W]`` in 0..1 to latents ``[B, C, h, w]`` of unit scale, and back."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn

from mimdit.backbone.pretrained import load_pretrained


class PixelCodec(nn.Module):
    """Latents are the pixels themselves, in -1..1: for small models. (ours)"""

    channels, downscale = 3, 1

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..1 to fp32 latents in -1..1."""
        return images.float() * 2 - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to fp32 images, not clamped."""
        return (latents.float() + 1) / 2


class VAECodec(nn.Module):
    """A frozen diffusers ``AutoencoderKL``; latents are ``(mean - shift_factor) * scaling_factor`` (SD3, arXiv 2403.03206).

    Args:
        pretrained: Folder of the autoencoder (with ``config.json``), a pipeline's folder with a ``vae`` sub-folder, or a pipeline's hub id.

    Raises:
        ValueError: It is no autoencoder, or its files are missing, broken or incomplete.
    """

    def __init__(self, pretrained: str) -> None:
        super().__init__()
        self.vae = load_pretrained(AutoencoderKL, pretrained, "vae").requires_grad_(False)
        self.channels = self.vae.config.latent_channels
        self.downscale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.scale, self.shift = self.vae.config.scaling_factor, self.vae.config.shift_factor or 0.0

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Posterior means of images in 0..1, as fp32 latents."""
        posterior = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist
        return (posterior.mean.float() - self.shift) * self.scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to fp32 images, not clamped."""
        decoded = self.vae.decode((latents.float() / self.scale + self.shift).to(self.vae.dtype)).sample
        return (decoded.float() + 1) / 2
