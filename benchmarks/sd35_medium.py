"""SD3.5-medium's architecture with random weights or on the meta device, and small look-alikes, for the other benchmarks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from mimdit.backbone import DiTBackbone
from mimdit.backbone.prompts import write_prompts
from mimdit.conditioner import MoEConditioner
from mimdit.core.batch import ATOMS, Batch
from mimdit.flow import FlowMatching
from mimdit.restorer.restorer import Restorer
from mimdit.routing import RoutingBalance

CONFIG = Path(__file__).parents[1] / "configs/conditioner/sd35_medium.yaml"
"""The measured conditioner."""


@dataclass(frozen=True)
class Size:
    """A transformer of SD3.5-medium's form (https://huggingface.co/stabilityai/stable-diffusion-3.5-medium, transformer/config.json).

    ``width`` is the width of its tokens (heads of 64), ``dual`` the number of blocks with a second attention, ``latent`` the side of the
    latents (64 for 512 pixels), ``divisor`` the divisor of the conditioner's widths, ``blocks`` its maximum number of MiM blocks.
    """

    layers: int
    width: int
    dual: int
    text_width: int
    text_tokens: int
    latent: int
    divisor: int
    blocks: int

    def architecture(self) -> dict:
        """Return the arguments of ``SD3Transformer2DModel``."""
        return {
            "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": self.layers,
            "attention_head_dim": 64, "num_attention_heads": self.width // 64, "joint_attention_dim": self.text_width,
            "caption_projection_dim": self.width, "pooled_projection_dim": self.text_width // 2, "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(self.dual)), "qk_norm": "rms_norm",
        }  # fmt: skip


SIZES = {
    "full": Size(layers=24, width=1536, dual=13, text_width=4096, text_tokens=77, latent=64, divisor=1, blocks=24),
    "small": Size(layers=24, width=192, dual=13, text_width=512, text_tokens=77, latent=32, divisor=8, blocks=24),
    "tiny": Size(layers=3, width=64, dual=1, text_width=32, text_tokens=7, latent=16, divisor=32, blocks=2),
}
"""SD3.5-medium itself at 512 pixels, one of an eighth of its width and half of its side, and one for a smoke test."""


class LatentCodec(nn.Module):
    """Codec whose images are latents, as with cached latents."""

    channels, downscale = 16, 1

    def encode(self, images: torch.Tensor, draws: list[str] | None = None) -> torch.Tensor:
        """Return the latents unchanged."""
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents unchanged."""
        return latents


def make_restorer(size: Size, config: Path = CONFIG, *, text_tokens: int | None = None) -> Restorer:
    """Return a restorer with a frozen backbone and random weights, on the device of the context; it logs nothing."""
    architecture = size.architecture()
    text = torch.zeros(1, text_tokens or size.text_tokens, size.text_width, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        prompt = Path(folder) / "prompt.safetensors"
        write_prompts(prompt, [""], text, torch.zeros(1, size.text_width // 2, device="cpu"), made_with="zeros")
        backbone = DiTBackbone(None, architecture=architecture, codec=LatentCodec(), prompt=str(prompt))
    arguments = conditioner_arguments(size, config)
    restorer = Restorer(
        backbone,
        MoEConditioner(**arguments),
        RoutingBalance(),
        FlowMatching(steps=28),
        estimate_weight=1.0 if arguments["estimate"] else 0.0,
    )
    restorer.log = lambda *args, **options: None
    return restorer


def conditioner_arguments(size: Size, config: Path = CONFIG) -> dict:
    """Return the arguments of the configuration, reduced to ``size``."""
    arguments = yaml.safe_load(config.read_text())["init_args"]
    arguments |= {"token_dim": size.width, "num_layers": size.layers, "num_blocks": min(arguments["num_blocks"], size.blocks)}
    for name in ("dim", "hidden"):
        if arguments.get(name) is not None:
            arguments[name] = max(8, arguments[name] // size.divisor)
    return arguments


def make_batch(size: Size, images: int, seed: int = 0) -> Batch:
    """Return latents of ``images`` pairs, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    gt, noise = (torch.randn(images, 16, size.latent, size.latent, generator=generator) for _ in range(2))
    degradation = torch.zeros(images, len(ATOMS))
    return {"lq": gt + 0.3 * noise, "gt": gt, "degradation": degradation, "group": ["any"] * images, "key": [str(n) for n in range(images)]}


def device_name(device: torch.device) -> str:
    """Return the name of the device to report with a figure."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def synchronize(device: torch.device) -> None:
    """Wait for pending work on ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
