"""Models and batches so small that a test of the whole experiment takes a moment."""

import torch

from mimdit.backbone import DiTBackbone
from mimdit.backbone.inner_experts import is_expert
from mimdit.backbone.lora import is_adapter
from mimdit.conditioner import MoEConditioner
from mimdit.core.batch import ATOMS, Batch
from mimdit.flow import FlowMatching
from mimdit.restorer.restorer import Restorer
from mimdit.routing import RoutingBalance

ARCHITECTURE = {
    "sample_size": 32,
    "patch_size": 4,
    "in_channels": 3,
    "out_channels": 3,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 16,
}
"""DiT of 2 blocks, 16 wide, on patches of 4 pixels, for images up to 64 pixels."""

PIXART = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 64,
    "patch_size": 4,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "cross_attention_dim": 16,
    "caption_channels": 8,
}
"""The same of the PixArt family, whose output has a variance beside each channel."""

FLUX = {
    "_class_name": "FluxTransformer2DModel",
    "in_channels": 12,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "pooled_projection_dim": 8,
    "guidance_embeds": True,
    "axes_dims_rope": [2, 2, 4],
}
"""FLUX.1 [dev] of 2 double and 2 single blocks, 16 wide, on patches of 2 pixels, as always in this family."""

FLUX_CONDITIONER = {"num_layers": 3, "token_patch": 2}
"""Arguments of `tiny_conditioner` that fit `FLUX`."""


def tiny_backbone(seed: int = 0, **options) -> DiTBackbone:
    """Return a backbone with random weights, none of them zero: the output of an untrained SD3 transformer is always zero."""
    torch.manual_seed(seed)
    backbone = DiTBackbone(None, **{"architecture": ARCHITECTURE} | options)
    randomize(backbone.transformer, seed)
    return backbone


def tiny_conditioner(seed: int = 0, **options) -> MoEConditioner:
    """Return a conditioner at initialization that fits `tiny_backbone`."""
    torch.manual_seed(seed)
    sizes = {"latent_channels": 3, "token_dim": 16, "num_layers": 2, "token_patch": 4, "dim": 8, "num_blocks": 1, "num_experts": 3}
    return MoEConditioner(**sizes | options)


def tiny_restorer(
    *, backbone: dict | None = None, conditioner: dict | None = None, balance: dict | None = None, flow: dict | None = None, **options
) -> Restorer:
    """Return a restorer of tiny parts; the four dictionaries change their arguments."""
    parts = tiny_backbone(**backbone or {}), tiny_conditioner(**conditioner or {}), RoutingBalance(**balance or {})
    return Restorer(*parts, FlowMatching(**{"steps": 2} | (flow or {})), **{"overlap": 16} | options)


def restorer_config(**options) -> dict:
    """Return the config of a tiny restorer that samples from its estimate."""
    parts = {
        "backbone": {"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": None, "architecture": ARCHITECTURE}},
        "conditioner": {
            "class_path": "mimdit.MoEConditioner",
            "init_args": {"token_dim": 16, "num_layers": 2, "token_patch": 4, "dim": 8, "num_blocks": 1, "estimate": True},
        },
        "balance": {"class_path": "mimdit.RoutingBalance"},
        "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": {"source": "estimate", "sigma_start": 0.1, "start": "estimate"}},
    }
    return {"class_path": "mimdit.Restorer", "init_args": parts | {"estimate_weight": 1.0, "overlap": 16} | options}


def tiny_batch(batch: int = 2, size: int = 16, seed: int = 0) -> Batch:
    """Return random pairs; every third image is not degraded."""
    generator = torch.Generator().manual_seed(seed)
    degradation = (torch.rand(batch, len(ATOMS), generator=generator) < 0.3).float()
    degradation[::3] = 0
    gt = torch.rand(batch, 3, size, size, generator=generator)
    # Contrast differs between images, so that gates can distinguish them.
    lq = 0.5 + (gt - 0.5) * torch.linspace(0.1, 1.0, batch)[:, None, None, None] * (1 + seed % 3)
    keys = [f"{seed}/{index}" for index in range(batch)]
    return {"lq": lq.clamp(0, 1), "gt": gt, "degradation": degradation, "group": ["any"] * batch, "key": keys}


def randomize(module: torch.nn.Module, seed: int, scale: float = 0.2) -> None:
    """Set all parameters of ``module``, adapters and experts excepted, to normal values: zero-initialized layers would hide later ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not (is_adapter(name) or is_expert(name)):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


randomise = randomize  # codespell:ignore randomise (tests/data/before/write.py imports it)
