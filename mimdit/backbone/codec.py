"""Codecs: from images ``[B, 3, H, W]`` in 0..1 to latents ``[B, C, h, w]`` of unit scale, and back."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn

from mimdit.backbone.pretrained import load_pretrained
from mimdit.core.rng import draw_normals, keyed_generator

POSTERIORS = ("mean", "sample")


class Codec(nn.Module):
    """Conversion between images and latents, as `mimdit.DiTBackbone` uses it.

    Attributes:
        channels: Latent channels C.
        downscale: Pixels per latent position, in each direction.
        pointwise: True where each latent depends on one pixel and each pixel on one latent: images may then be cut anywhere.
    """

    channels: int
    downscale: int
    pointwise: bool

    def encode(self, images: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Encode images ``[B, 3, H, W]`` in 0..1 as fp32 latents; ``draws`` are the images' `draw_names` in training."""
        raise NotImplementedError

    def from_moments(self, moments: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Return fp32 latents from the cached mean and log-variance ``[B, 2C, h, w]`` of a posterior; ``draws`` as in `encode`."""
        raise NotImplementedError

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents ``[B, C, h, w]`` to fp32 images ``[B, 3, H, W]``, nominally in 0..1 but not clamped."""
        raise NotImplementedError


class PixelCodec(Codec):
    """Identity codec for small models: latents are the pixels, in -1..1. Not in the paper."""

    channels, downscale = 3, 1
    pointwise = True

    def encode(self, images: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Encode images in 0..1 as fp32 latents in -1..1; ``draws`` is unused."""
        return images.float() * 2 - 1

    def from_moments(self, moments: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Raise ValueError: pixels have no posterior, so cached latents belong to another codec."""
        raise ValueError(
            "the batch holds latents of an autoencoder, but this backbone works on pixels (PixelCodec); give it the VAECodec that made "
            "them, or train on images (data.latents: false, or shards without latents)"
        )

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents ``[B, C, h, w]`` to fp32 images ``[B, 3, H, W]``, nominally in 0..1 but not clamped."""
        return (latents.float() + 1) / 2


class VAECodec(Codec):
    """Frozen diffusers ``AutoencoderKL`` with latents ``(z - shift_factor) * scaling_factor`` (SD3, arXiv 2403.03206).

    The autoencoder runs in the precision of its weights or of autocast; posterior arithmetic, scale and shift, latents and images are fp32.

    Args:
        pretrained: Folder of the autoencoder (with ``config.json``), a pipeline's folder with a ``vae`` sub-folder, or a hub id of either.
        variant: Variant of the weights, such as ``fp16``; None for the default.
        revision: Branch, tag or commit of a hub id.
        posterior: Value of ``z`` in training: the posterior's ``mean``, or a ``sample`` of it. Inference uses the mean.
        tiling: If true, process images above the autoencoder's ``sample_size`` in overlapping tiles. That bounds memory and changes the
            result slightly, because norms are computed over a tile instead of the image.
        slicing: If true, process the images of a batch one by one, which bounds memory.

    Raises:
        ValueError: ``pretrained`` is not an autoencoder, its files are missing, broken or incomplete, or ``posterior`` is unknown.
    """

    pointwise = False

    def __init__(
        self,
        pretrained: str,
        *,
        variant: str | None = None,
        revision: str | None = None,
        posterior: str = "mean",
        tiling: bool = False,
        slicing: bool = False,
    ) -> None:
        super().__init__()
        if posterior not in POSTERIORS:
            raise ValueError(f"posterior {posterior!r} is unknown; choose {' or '.join(POSTERIORS)}")
        self.vae = load_pretrained(AutoencoderKL, pretrained, "vae", variant=variant, revision=revision).requires_grad_(False)
        self.origin, config = self.vae.origin, self.vae.config
        self.channels = config["latent_channels"]
        self.downscale = 2 ** (len(config["block_out_channels"]) - 1)
        self.scale, self.shift = config["scaling_factor"], config["shift_factor"] or 0.0
        self.posterior = posterior
        if tiling:
            self.vae.enable_tiling()
        if slicing:
            self.vae.enable_slicing()

    @torch.no_grad()
    def encode(self, images: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Encode images ``[B, 3, H, W]`` in 0..1 as fp32 latents.

        ``draws`` are the images' `mimdit.core.batch.draw_names` in training. They key the noise of a sampled posterior, so a sample does
        not depend on ranks, workers or its position in the batch. Without them the latents are the posterior's mean.
        """
        return self.from_moments(self.moments(images), draws)

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> torch.Tensor:
        """Return the posterior's mean and log-variance ``[B, 2C, h, w]``, neither shifted nor scaled, of images in 0..1."""
        encoded = cast(AutoencoderKLOutput, self.vae.encode((images * 2 - 1).to(self.vae.dtype)))
        posterior = encoded.latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    def from_moments(self, moments: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Return fp32 latents from `moments`, computed now or cached in any float type; ``draws`` as in `encode`."""
        latents, logvar = moments.float().chunk(2, dim=1)
        if self.posterior == "sample" and draws is not None:
            generators = [keyed_generator("posterior", draw) for draw in draws]
            latents = latents + torch.exp(0.5 * logvar) * draw_normals(latents.shape[1:], generators, latents.device)
        return (latents - self.shift) * self.scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents ``[B, C, h, w]`` to fp32 images ``[B, 3, H, W]``, nominally in 0..1 but not clamped."""
        decoded = cast(DecoderOutput, self.vae.decode((latents.float() / self.scale + self.shift).to(self.vae.dtype)))
        return (decoded.sample.float() + 1) / 2
