"""MoEConditioner: the degraded latent in, residuals for the DiT, an estimate of the clean latent and the routing out.

Shape legend: M MiM blocks, B images, G groups, E sub-experts, F router features.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimdit.conditioner.estimate import EstimateHead
from mimdit.conditioner.experts import SwinAttention
from mimdit.conditioner.identification import IdentificationHead, presence_scales
from mimdit.conditioner.injection import ResidualProjection, TimestepScale
from mimdit.conditioner.int8 import is_quantized, quantize_experts
from mimdit.conditioner.inter_moe import DEFAULT_GROUPS, InterMoE
from mimdit.conditioner.mim_block import MiMBlock
from mimdit.core.files import replace_when_whole
from mimdit.routing.router import router_features
from mimdit.routing.routing import Gates, Routing

_HOW_IT_RUNS = ("dispatch", "compile", "checkpointing")


@dataclass(frozen=True)
class Conditioning:
    """What the conditioner says about a batch of degraded images.

    ``residuals`` is a list of M tensors ``[B, N, D]`` on the DiT's token grid, ``estimate`` the clean latent ``[B, C, h, w]`` in fp32 or
    None without an estimate head, ``rerouted`` a second record over an accumulation window (see `MoEConditioner.forward`) or None,
    ``identified`` the logits ``[B, A]`` of the degradations that are present, or None without an identification head.
    """

    residuals: list[torch.Tensor]
    routing: Routing
    estimate: torch.Tensor | None
    rerouted: Routing | None = None
    identified: torch.Tensor | None = None

    def first(self, count: int) -> Conditioning:
        """Residuals and estimate of the first ``count`` images alone; the routing stays that of all."""
        estimate = None if self.estimate is None else self.estimate[:count]
        identified = None if self.identified is None else self.identified[:count]
        return Conditioning([residual[:count] for residual in self.residuals], self.routing, estimate, self.rerouted, identified)


class ParameterCounts(NamedTuple):
    """Numbers of parameters: ``stored`` in all, and ``active``, which take part in the answer for one image."""

    stored: int
    active: int


class MoEConditioner(L.LightningModule):
    """The MoE-in-MoE conditioner (paper: §3; widths, depths and the estimate are ours).

    It sees the degraded latent only, never the noisy one.

    Args:
        latent_channels: Channels C of the latents.
        token_dim: Width D of the DiT's tokens (attention heads x head width).
        num_layers: Blocks of the DiT.
        token_patch: Latent pixels per DiT token, in each direction.
        patch_size: Latent pixels per conditioner position, in each direction; divides ``token_patch``.
        dim: Width of the conditioner.
        num_blocks: Number M of MiM blocks.
        hidden: Inner width of one sub-expert; None for dim / top_k, so that a group costs as much as one expert of full width.
        num_experts: Sub-experts E per group.
        top_k: Sub-experts per image and group, 1..E.
        groups: Kind of each group: ``spatial``, ``channel``, ``swin``, ``se``; repeat one for a homogeneous Inter-MoE.
        inter: Gate over groups: ``dense`` (the paper), ``sparse`` or ``uniform``.
        inter_top_k: Groups kept when ``inter`` is sparse.
        intra: Gate over sub-experts: ``sparse`` (the paper), ``dense`` or ``none``.
        expansion: Width of the feed-forward, in units of ``dim``.
        moe_stride: Positions per position of the experts' grid, in each direction: at 2 the experts work on a pooled grid, at a quarter of
            the cost, while the feed-forward keeps to the fine one.
        moe_dim: Width of the experts' grid, which then has a feed-forward of its own; None for ``dim``. Not in the paper.
        feed_forward: ``gated`` or ``conv``, the feed-forward on the fine grid; see `MiMBlock`.
        estimate: Whether to predict the clean latent directly (ours; off in the paper's configuration).
        tone_powers: Exponents of the estimate's tone change; empty for none.
        tone_histogram: Whether the tone change reads quantiles and gradients beside means and spreads: more haze goes, but a model of
            made scenes then misjudges the colours of photographs more often.
        tone_grid: Positions per cell, in each direction, of a grid on which the tone may differ from place to place (haze grows with the
            distance); 0 for one tone for the whole image.
        identify: Whether to predict which degradations are present. Not in the paper.
        confidence: Whether the estimate's corrections are scaled by the probability that there is something to correct; needs ``identify``.
            Not in the paper.
        dispatch: How images reach their sub-experts, with the same result: ``gather``, ``grouped`` or ``auto``, which chooses by device and
            type; see `mimdit.conditioner.dispatch`.
        compile: Whether the MiM blocks are compiled, each by itself (``torch.compile``). Names of weights stay as they are.
        checkpointing: Whether the MiM blocks are run a second time in the backward pass instead of keeping what is inside them. The routing
            is that of the first run.
    """

    def __init__(
        self,
        latent_channels: int = 3,
        token_dim: int = 192,
        num_layers: int = 6,
        token_patch: int = 8,
        *,
        patch_size: int = 2,
        dim: int = 48,
        num_blocks: int = 4,
        hidden: int | None = None,
        num_experts: int = 4,
        top_k: int = 2,
        groups: list[str] = list(DEFAULT_GROUPS),  # noqa: B006  (a list, never changed: YAML has no tuples)
        inter: str = "dense",
        inter_top_k: int = 1,
        intra: str = "sparse",
        expansion: float = 1.0,
        moe_stride: int = 1,
        moe_dim: int | None = None,
        feed_forward: str = "gated",
        estimate: bool = False,
        tone_powers: list[float] = [],  # noqa: B006
        tone_histogram: bool = False,
        tone_grid: int = 0,
        identify: bool = False,
        confidence: bool = False,
        dispatch: str = "auto",
        compile: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        # What it is, not how it is run: that is chosen anew by whoever loads it.
        self.config = {name: value for name, value in locals().items() if name not in {"self", "__class__", *_HOW_IT_RUNS}}
        if token_patch % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide token_patch={token_patch}; choose one that does")
        if not groups:
            raise ValueError("groups is empty; name at least one kind of expert, such as [spatial, channel, swin, se]")
        most = max(1, num_layers - 1)
        if not 1 <= num_blocks <= most:
            raise ValueError(
                f"num_blocks={num_blocks} MiM blocks cannot feed a DiT of {num_layers} blocks (its last takes no residual); use 1..{most}"
            )
        if top_k < 1 or (hidden is not None and hidden < 1):
            raise ValueError(f"top_k={top_k} and hidden={hidden} must be at least 1; leave hidden at null for dim / top_k")
        if moe_stride < 1:
            raise ValueError(f"moe_stride={moe_stride} must be at least 1; at 1 the experts work on every position")
        if moe_dim is not None and moe_dim < 1:
            raise ValueError(f"moe_dim={moe_dim} must be at least 1; leave it at null for the width of the fine grid, dim={dim}")
        if confidence and not (identify and estimate):
            raise ValueError("confidence: true scales the estimate by what was identified; it needs identify: true and estimate: true")
        hidden = max(1, (moe_dim or dim) // top_k) if hidden is None else hidden
        self.moe_stride = moe_stride
        self.patch_size, self.fold, self.groups = patch_size, token_patch // patch_size, tuple(groups)
        self.embed = nn.Conv2d(latent_channels * patch_size**2, dim, 3, padding=1)
        gates = {"top_k": top_k, "inter": inter, "inter_top_k": inter_top_k, "intra": intra, "dispatch": dispatch, "num_features": 2 * dim}
        grids = {"expansion": expansion, "moe_stride": moe_stride, "moe_dim": moe_dim, "feed_forward": feed_forward}
        self.blocks = nn.ModuleList(
            MiMBlock(dim, InterMoE(moe_dim or dim, hidden, self.groups, num_experts, shift=bool(index % 2), **gates), **grids)
            for index in range(num_blocks)
        )
        self.projections = nn.ModuleList(ResidualProjection(dim, token_dim, self.fold) for _ in range(num_blocks))
        self.timestep_scale = TimestepScale(token_dim, num_layers)
        if tone_grid < 0:
            raise ValueError(f"tone_grid={tone_grid} is negative; use 0 for one tone for the whole image")
        self.tone_grid = tone_grid if estimate and tone_powers else 0
        tone = {"tone_powers": tuple(tone_powers), "tone_histogram": tone_histogram, "tone_grid": tone_grid, "feed_forward": feed_forward}
        self.estimate_head = EstimateHead(latent_channels, dim, patch_size, **tone) if estimate else None
        self.identification = IdentificationHead(2 * dim * (num_blocks + 1)) if identify else None
        self.confidence = confidence
        self.checkpointing = checkpointing
        if compile:
            self.compile_blocks()

    @property
    def multiple(self) -> int:
        """Latent height and width must be multiples of this: of the tokens, the Swin windows and the cells of the tone."""
        return self.patch_size * math.lcm(self.fold, SwinAttention.window * self.moe_stride, self.tone_grid or 1)

    def forward(
        self,
        latents: torch.Tensor,
        routing: Routing | None = None,
        *,
        reroute: tuple[torch.Tensor, ...] = (),
        gains_MG: torch.Tensor | None = None,
    ) -> Conditioning:
        """Read degraded ``latents [B, C, h, w]``.

        Args:
            latents: The degraded latents; h and w multiples of `multiple`.
            routing: Gates to obey instead of deciding (tiles, steering, tests).
            reroute: Router features ``[M, B', F]`` of earlier micro-batches. The routers are evaluated once more on those and on this
                batch's, all detached: the record, in ``rerouted``, gives balance losses the gradient of the whole window while it
                stops at the router weights. Pass ``(None,)`` for this batch alone.
            gains_MG: Factors of the groups' weights, of `mimdit.restorer.steering`.

        Raises:
            ValueError: The size is no multiple of `multiple`.
        """
        self.check_size(latents)
        hidden_states = self.embed_patches(latents)
        inter, intra, features, residuals = [], [], [], []  # the features keep their graph, for the identification
        for index, (block, projection) in enumerate(zip(self.blocks, self.projections)):
            forced = (None, None)
            if routing is not None:
                forced = [gates.map(lambda tensor, m=index: tensor[m]) for gates in (routing.inter, routing.intra)]
            if gains_MG is not None:
                inter_gates = block.inter_moe.router(router_features(hidden_states)) if routing is None else forced[0]
                forced = (inter_gates.scaled(gains_MG[index]), forced[1])
            hidden_states, inter_gates, intra_gates, features_BF = self._run(block, hidden_states, *forced)
            inter.append(inter_gates)
            intra.append(intra_gates)
            features.append(features_BF)
            residuals.append(projection(hidden_states))
        decided = self.record(Gates.stack(inter), Gates.stack(intra), torch.stack(features).detach())
        identified = None if self.identification is None else self.identification([*features, router_features(hidden_states)])
        estimate = None if self.estimate_head is None else self.estimate_head(latents, hidden_states, self.scales(identified))
        rerouted = self._reroute(torch.cat([f for f in (*reroute, decided.features_MBF) if f is not None], dim=1)) if reroute else None
        return Conditioning(residuals, decided, estimate, rerouted, identified)

    def scales(self, identified: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the factors of the estimate's tone and detail; None where it goes all the way."""
        return presence_scales(identified) if self.confidence else None

    def _run(self, block: MiMBlock, *inputs: torch.Tensor | Gates | None) -> tuple[torch.Tensor, Gates, Gates, torch.Tensor]:
        """Run a block, and keep nothing inside it if so asked."""
        # The checkpoint lies around the compiled block, not in it: DDP cuts the graphs it meets, and takes none with a checkpoint inside.
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def check_size(self, latents: torch.Tensor) -> None:
        """Raise ValueError where the size is no multiple of `multiple`."""
        height, width = latents.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"latents of {height}x{width} do not fit; pad height and width to multiples of {self.multiple}")

    def embed_patches(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to the hidden states of the first block ``[B, dim, h / patch_size, w / patch_size]``."""
        # Channels-last from here on: the depth-wise filters and the pointwise layers are two to three times faster so, on a CPU.
        patches = nn.functional.pixel_unshuffle(latents, self.patch_size).contiguous(memory_format=torch.channels_last)
        return self.embed(patches.to(self.embed.weight.dtype))

    def _reroute(self, features_MBF: torch.Tensor) -> Routing:
        decisions = [block.inter_moe.route(features_BF) for block, features_BF in zip(self.blocks, features_MBF)]
        return self.record(Gates.stack([inter for inter, _ in decisions]), Gates.stack([intra for _, intra in decisions]), features_MBF)

    def record(self, inter: Gates, intra: Gates, features_MBF: torch.Tensor) -> Routing:
        """The record of what the gates of all blocks decided, by what they read."""
        mask_GE = torch.ones(intra.probs.shape[1], intra.probs.shape[3], dtype=torch.bool, device=features_MBF.device)
        return Routing(inter, intra, features_MBF, mask_GE, self.groups)

    def parameter_counts(self) -> ParameterCounts:
        """How many parameters are stored, and how many of them an image meets: of E sub-experts the K chosen ones, and all of the rest."""
        stored = sum(parameter.numel() for parameter in self.parameters())
        idle = sum(group.num_idle_parameters for block in self.blocks for group in block.inter_moe.groups)
        return ParameterCounts(stored, stored - idle)

    def compile_blocks(self) -> None:
        """Compile the MiM blocks, each by itself."""
        _allow_recompiling()
        for block in self.blocks:
            block.compile()

    def shard_units(self) -> list[list[nn.Module]]:
        """What a sharded strategy gathers together: each block's experts and feed-forwards.

        The routers are not among them: `_reroute` asks them once more when their blocks have long run.
        """
        return [unit for block in self.blocks for unit in block.shard_units()]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``conditioner.safetensors`` into ``folder``, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(folder / "conditioner.safetensors") as path:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path)
        with replace_when_whole(folder / "config.json") as path:
            path.write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MoEConditioner:
        """Read what `save_pretrained` wrote; ValueError names what is missing from ``folder``."""
        folder = Path(folder)
        for name in ("config.json", "conditioner.safetensors"):
            if not (folder / name).is_file():
                remedy = "point to a folder written by MoEConditioner.save_pretrained"
                raise ValueError(f"{folder} is not a conditioner folder: {name} is missing; {remedy}")
        conditioner = cls(**json.loads((folder / "config.json").read_text()))
        state = load_file(folder / "conditioner.safetensors")
        if is_quantized([*state]):
            quantize_experts(conditioner)
        conditioner.load_state_dict(state)
        return conditioner


def _allow_recompiling() -> None:
    """Let a block have as many compiled versions as it needs; PyTorch gives up after 8 and then runs uncompiled.

    All blocks share them: shifted windows or not, training or validation, and a few versions for the sizes of images.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
