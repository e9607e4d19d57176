"""MoEConditioner: from the degraded latent to residuals for the DiT, an estimate of the clean latent, and the routing.

Shape legend: M MiM blocks, B images, N tokens, D token channels, G expert groups, E sub-experts, F router features, A atoms of degradation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack, cast

import lightning as L
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimdit.conditioner.checks import check_options
from mimdit.conditioner.estimate import EstimateHead
from mimdit.conditioner.experts import SwinAttention
from mimdit.conditioner.identification import IdentificationHead, presence_scales
from mimdit.conditioner.image_statistics import image_statistics
from mimdit.conditioner.injection import ResidualProjection, TimestepScale
from mimdit.conditioner.int8 import is_quantized, quantize_experts
from mimdit.conditioner.inter_moe import DEFAULT_GROUPS, InterMoE
from mimdit.conditioner.mim_block import MiMBlock
from mimdit.core.files import replace_when_whole
from mimdit.core.hub import HubOptions, PushToHub, local_folder
from mimdit.routing.router import RouterOptions, router_features
from mimdit.routing.routing import Gates, Routing

_EXECUTION = ("dispatch", "compile", "checkpointing")
"""Arguments that change how the conditioner is executed, not what it computes; they are not saved."""

Overrides = tuple[Gates | None, Gates | None, torch.Tensor | None]
"""Overrides of one block's gates: inter and intra gates, and gains; None for the routers' decisions, and for no gains."""


@dataclass(frozen=True)
class Decisions:
    """Everything that is decided once for a whole image. One image's decisions can be used for others, such as the frames of a shot.

    Attributes:
        routing: The decisions of all gates.
        tone: Coefficients of the tone curve ``[B, J * C, 1, 1]``; None without a tone curve.
        identified: Logits ``[B, A]`` of the degradations; None without an identification head.
    """

    routing: Routing
    tone: torch.Tensor | None
    identified: torch.Tensor | None


@dataclass(frozen=True)
class Conditioning:
    """Output of the conditioner for a batch of degraded images.

    Attributes:
        residuals: M tensors ``[B, N, D]`` on the DiT's token grid.
        routing: The decisions of all gates.
        estimate: Estimate of the clean latent ``[B, C, h, w]``, fp32; None without an estimate head.
        rerouted: Decisions over an accumulation window, see `MoEConditioner.forward`; None where none was requested.
        identified: Logits ``[B, A]`` of the degradations; None without an identification head.
        tone: Coefficients of the tone curve ``[B, J * C, 1, 1]``; None without a tone curve.
    """

    residuals: list[torch.Tensor]
    routing: Routing
    estimate: torch.Tensor | None
    rerouted: Routing | None = None
    identified: torch.Tensor | None = None
    tone: torch.Tensor | None = None

    @property
    def decisions(self) -> Decisions:
        """Everything that was decided once for the whole image."""
        return Decisions(self.routing, self.tone, self.identified)

    def first(self, count: int) -> Conditioning:
        """Return the output for the first ``count`` images; ``routing`` and ``rerouted`` still cover the whole batch."""
        per_image = {"estimate": self.estimate, "identified": self.identified, "tone": self.tone}
        cut = {name: value if value is None else value[:count] for name, value in per_image.items()}
        return replace(self, residuals=[residual[:count] for residual in self.residuals], **cut)


class ParameterCounts(NamedTuple):
    """Numbers of parameters: all that are ``stored``, and those that are ``active`` for one image."""

    stored: int
    active: int


def default_hidden(dim: int, moe_dim: int | None, top_k: int) -> int:
    """Return the inner width of a sub-expert where ``hidden`` is None: the experts' width over ``top_k``."""
    return max(1, (moe_dim or dim) // top_k)


class MoEConditioner(PushToHub, L.LightningModule):
    """MoE-in-MoE conditioner: MiM blocks whose outputs steer a pretrained DiT (paper, section 3).

    The input is the degraded latent, never the noisy one: at inference the conditioner runs once per image, not once per sampler step.
    The paper does not give the widths, the number of blocks, the number of sub-experts, or k. The estimate, the identification and the
    separate grid of the experts are not in the paper.

    Args:
        latent_channels: Channels C of the latents.
        token_dim: Width D of the DiT's tokens (attention heads x head width).
        num_layers: Blocks of the DiT.
        token_patch: Latent pixels per DiT token, in each direction.
        patch_size: Latent pixels per conditioner position, in each direction; divides ``token_patch``.
        dim: Width of the conditioner.
        num_blocks: Number M of MiM blocks.
        hidden: Inner width of one sub-expert; None for the experts' width (``moe_dim``, or else ``dim``) over ``top_k``, so that a group
            costs as much as one expert of full width.
        num_experts: Sub-experts E per group.
        top_k: Sub-experts per image and group, 1..E.
        groups: Expert kind of each group: ``spatial``, ``channel``, ``swin``, ``se``; repeat one for a homogeneous Inter-MoE.
        inter: Gate over groups: ``dense`` (the paper), ``sparse`` or ``uniform``.
        inter_top_k: Groups kept when ``inter`` is sparse.
        intra: Gate over sub-experts: ``sparse`` (the paper), ``dense`` or ``none``.
        expansion: Width of the feed-forward, in units of ``dim``.
        moe_stride: Fine positions per position of the experts' grid, in each direction. At 2 the experts work on a pooled grid, at a
            quarter of the cost; the feed-forward stays on the fine grid. Not in the paper.
        moe_dim: Width of the experts' grid, which then has a feed-forward of its own; None for ``dim``. Not in the paper.
        feed_forward: ``gated`` or ``conv``, the feed-forward on the fine grid; see `MiMBlock`.
        estimate: If true, predict the clean latent directly. Not in the paper.
        tone_powers: Exponents of the estimate's tone curve; empty for no tone curve.
        tone_histogram: If true, the tone curve reads quantiles and gradients in addition to means and spreads. More haze is removed, but
            models trained on synthetic scenes then misjudge the colors of photographs more often.
        tone_widths: Inner widths of the network that computes the tone curve; empty for one of 2 ``dim``.
        tone_all_blocks: If true, the tone curve reads the features before each block, as the routers do, and not only the last ones.
        tone_grid: Positions per cell, in each direction, of a grid on which the tone may vary (haze grows with distance); 0 for one tone
            curve for the whole image.
        identify: If true, predict the degradations that are present. Not in the paper.
        identify_statistics: If true, the identification also reads statistics of the image (`mimdit.conditioner.image_statistics`), which
            depend less on what the image shows; needs ``identify`` and pixel latents. Not in the paper.
        identify_width: Inner width of the identification.
        confidence: If true, scale the estimate's corrections by the probability that there is something to correct; needs ``identify``.
            Not in the paper.
        router: ``linear`` (the paper) or ``prototype``, cosines to one learned prototype per expert (`PrototypeRouter`). Not in the paper.
        temperature: Divisor of the cosines, at least 0.01; used only by ``router: prototype``.
        learn_temperature: If true, each router learns its temperature.
        dispatch: Execution of the sub-experts, with equal results: ``gather``, ``grouped`` or ``auto``, which chooses by device and type;
            see `mimdit.conditioner.dispatch`.
        compile: If true, compile each MiM block (``torch.compile``). Names of weights do not change.
        checkpointing: If true, recompute the MiM blocks in the backward pass instead of storing their activations. The returned routing
            comes from the forward pass.

    Raises:
        ValueError: An option is out of range or unknown, or two options exclude each other.
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
        tone_widths: list[int] = [],  # noqa: B006
        tone_all_blocks: bool = False,
        tone_grid: int = 0,
        identify: bool = False,
        identify_statistics: bool = False,
        identify_width: int = 128,
        confidence: bool = False,
        router: str = "linear",
        temperature: float = 0.1,
        learn_temperature: bool = False,
        dispatch: str = "auto",
        compile: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {name: value for name, value in locals().items() if name not in {"self", "__class__", *_EXECUTION}}
        check_options(self.config)
        hidden = default_hidden(dim, moe_dim, top_k) if hidden is None else hidden
        self.moe_stride = moe_stride
        self.patch_size, self.fold, self.groups = patch_size, token_patch // patch_size, tuple(groups)
        self.embed = nn.Conv2d(latent_channels * patch_size**2, dim, 3, padding=1)
        gates = {"top_k": top_k, "inter": inter, "inter_top_k": inter_top_k, "intra": intra, "dispatch": dispatch, "num_features": 2 * dim}
        gates["router"] = RouterOptions(router, temperature, learn_temperature)
        grids = {"expansion": expansion, "moe_stride": moe_stride, "moe_dim": moe_dim, "feed_forward": feed_forward}
        blocks = (
            MiMBlock(dim, InterMoE(moe_dim or dim, hidden, self.groups, num_experts, shift=bool(index % 2), **gates), **grids)
            for index in range(num_blocks)
        )
        self.blocks = cast(Sequence[MiMBlock], nn.ModuleList(blocks))
        self.projections = nn.ModuleList(ResidualProjection(dim, token_dim, self.fold) for _ in range(num_blocks))
        self.timestep_scale = TimestepScale(token_dim, num_layers)
        self.tone_grid = tone_grid if estimate and tone_powers else 0
        tone = {"tone_powers": tuple(tone_powers), "tone_histogram": tone_histogram, "tone_grid": tone_grid}
        tone |= {"tone_widths": tuple(tone_widths), "tone_blocks": num_blocks if tone_all_blocks else 0, "feed_forward": feed_forward}
        self.estimate_head = EstimateHead(latent_channels, dim, patch_size, **tone) if estimate else None
        read = {"width": identify_width, "statistics": identify_statistics}
        self.identification = IdentificationHead(2 * dim * (num_blocks + 1), **read) if identify else None
        self.confidence = confidence
        self.checkpointing = checkpointing
        if compile:
            self.compile_blocks()

    @property
    def multiple(self) -> int:
        """Divisor that latent height and width must have: least common multiple of the sizes of tokens, Swin windows and tone cells."""
        return self.patch_size * math.lcm(self.fold, SwinAttention.window * self.moe_stride, self.tone_grid or 1)

    def forward(
        self,
        latents: torch.Tensor,
        routing: Routing | None = None,
        *,
        reroute: Sequence[torch.Tensor] | None = None,
        gains_MG: torch.Tensor | None = None,
        decisions: Decisions | None = None,
    ) -> Conditioning:
        """Condition on degraded ``latents [B, C, h, w]``.

        Args:
            latents: The degraded latents; h and w multiples of `multiple`.
            routing: Gates to use instead of the routers' decisions, such as those of `uniform_routing`.
            reroute: Router features ``[M, B', F]`` of earlier micro-batches, or an empty list for this batch only; None for no second
                evaluation. The routers are evaluated once more on those and on the features of this batch, all detached. The resulting
                record, ``rerouted``, gives balance losses the gradient of the whole accumulation window; the gradient stops at the router
                weights.
            gains_MG: Factors of the groups' weights; see `mimdit.restorer.steering`.
            decisions: Decisions to use instead of those for these latents; ``routing`` takes precedence over theirs.

        Raises:
            ValueError: The size is not a multiple of `multiple`.
        """
        self.check_size(latents)
        if decisions is not None:
            routing = decisions.routing if routing is None else routing
        hidden_states = self.embed_patches(latents)
        inter, intra, features, residuals = [], [], [], []  # the features keep their graph, for the identification and the tone
        for block, projection, overrides in zip(self.blocks, self.projections, self.overrides(routing, gains_MG)):
            hidden_states, inter_gates, intra_gates, features_BF = self._run(block, hidden_states, *overrides)
            inter.append(inter_gates)
            intra.append(intra_gates)
            features.append(features_BF)
            residuals.append(projection(hidden_states))
        decided = self.record(inter, intra, torch.stack(features).detach())
        features.append(router_features(hidden_states))
        identified, tone = self.decide_for(latents, features, decisions)
        head, scales = self.estimate_head, self.scales(identified)
        estimate = None if head is None else head(latents, hidden_states, tone, scales=scales)
        rerouted = None if reroute is None else self._reroute(torch.cat([*reroute, decided.features_MBF], dim=1))
        return Conditioning(residuals, decided, estimate, rerouted, identified, tone)

    def overrides(self, routing: Routing | None, gains_MG: torch.Tensor | None) -> list[Overrides]:
        """Return each block's overrides, the arguments of `InterMoE.decide`, from a given routing and gains."""
        nothing = [None] * len(self.blocks)
        inter, intra = (nothing, nothing) if routing is None else (routing.inter.unbind(), routing.intra.unbind())
        return list(zip(inter, intra, nothing if gains_MG is None else gains_MG, strict=True))

    def identify(self, latents: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor | None:
        """Return logits ``[B, A]`` for latents, and features ``[B, F]`` before each block and after the last; None without such a head."""
        if self.identification is None:
            return None
        return self.identification(features, image_statistics(latents) if self.identification.statistics else None)

    def decide_for(
        self, latents: torch.Tensor, features: list[torch.Tensor], decisions: Decisions | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the logits of the degradations and the coefficients of the tone curve, each None without such a part.

        Args:
            latents: Degraded latents.
            features: Features ``[B, F]`` before each block and after the last.
            decisions: Decisions to return instead.
        """
        if decisions is not None:
            return decisions.identified, decisions.tone
        tone = None if self.estimate_head is None else self.estimate_head.tone
        return self.identify(latents, features), None if tone is None else tone.decide(latents, features)

    def scales(self, identified: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the factors of the estimate's tone and detail corrections; None for full corrections."""
        if not self.confidence:
            return None
        assert identified is not None  # `confidence` needs `identify`
        return presence_scales(identified)

    def _run(self, block: MiMBlock, *inputs: torch.Tensor | Gates | None) -> tuple[torch.Tensor, Gates, Gates, torch.Tensor]:
        """Run a block, with activation checkpointing where it is switched on."""
        # The checkpoint is around the compiled block, not inside: DDP splits compiled graphs and rejects one that contains a checkpoint.
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def check_size(self, latents: torch.Tensor) -> None:
        """Raise ValueError if the size is not a multiple of `multiple`."""
        height, width = latents.shape[2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"latents of {height}x{width} do not fit; pad height and width to multiples of {self.multiple}")

    def embed_patches(self, latents: torch.Tensor) -> torch.Tensor:
        """Embed latents as the hidden states of the first block, ``[B, dim, h / patch_size, w / patch_size]``."""
        # Channels-last from here on: on a CPU, depth-wise filters and pointwise layers are then two to three times as fast.
        patches = nn.functional.pixel_unshuffle(latents, self.patch_size).contiguous(memory_format=torch.channels_last)
        return self.embed(patches.to(self.embed.weight.dtype))

    def _reroute(self, features_MBF: torch.Tensor) -> Routing:
        inter, intra = zip(*(block.inter_moe.decide(features_BF) for block, features_BF in zip(self.blocks, features_MBF)))
        return self.record(inter, intra, features_MBF)

    def record(self, inter: Sequence[Gates], intra: Sequence[Gates], features_MBF: torch.Tensor) -> Routing:
        """Return the record of all blocks' gates and of the features that they were decided from."""
        return Routing(Gates.stack(inter), Gates.stack(intra), features_MBF, self.groups)

    def parameter_counts(self) -> ParameterCounts:
        """Count the stored parameters and those active for one image: k of E sub-experts, and everything else."""
        stored = sum(parameter.numel() for parameter in self.parameters())
        idle = sum(group.num_idle_parameters for block in self.blocks for group in block.inter_moe.groups)
        return ParameterCounts(stored, stored - idle)

    def compile_blocks(self) -> None:
        """Compile each MiM block."""
        _allow_recompiling()
        for block in self.blocks:
            block.compile()

    def shard_units(self) -> list[list[nn.Module]]:
        """Return the modules that a sharded strategy gathers together: each block's experts and feed-forwards.

        Routers are not included: `_reroute` evaluates them after their blocks have run.
        """
        return [unit for block in self.blocks for unit in block.shard_units()]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``conditioner.safetensors`` to ``folder``, each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(folder / "conditioner.safetensors") as path:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path)
        with replace_when_whole(folder / "config.json") as path:
            path.write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **hub: Unpack[HubOptions]) -> MoEConditioner:
        """Load a conditioner from a folder written by `save_pretrained`.

        Args:
            folder: The folder, or the ``owner/name`` of a repository on the Hugging Face hub.
            **hub: Options of a repository, such as ``revision``; see `mimdit.core.hub.HubOptions`.

        Raises:
            ValueError: A file is missing from ``folder``.
        """
        folder = local_folder(folder, **hub)
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
    """Raise PyTorch's limit of 8 compiled versions, past which a block runs uncompiled.

    All blocks share the limit: versions with and without shifted windows, for training and validation, and for a few image sizes.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
