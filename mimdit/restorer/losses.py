"""Losses of a restorer's training step, and freezing of the parameters that no loss reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mimdit.backbone.inner_experts import expert_losses
from mimdit.conditioner.moe_conditioner import Conditioning
from mimdit.core.batch import Batch, draw_names
from mimdit.restorer.caution import gated
from mimdit.restorer.cleaned import clean_in_some_steps
from mimdit.restorer.flow_loss import flow_loss
from mimdit.routing.routing import Routing
from mimdit.routing.token_routing import TokenRouting
from mimdit.training.losses import estimate_loss, harm_loss, identify_loss

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer


@dataclass(frozen=True)
class StepLosses:
    """Losses of one micro-batch, and the routing that they were computed from.

    Attributes:
        weighted: Losses by name, times their weights; the step minimizes their sum. Those with the weight 0 are left out.
        routing: The decisions of all gates.
        tokens: Routing of the tokens in each pass through a transformer with ``moe``; empty without such a pass.
    """

    weighted: dict[str, torch.Tensor]
    routing: Routing
    tokens: list[TokenRouting]


def step_losses(restorer: Restorer, batch: Batch, *, last: bool, micro_batches: int) -> StepLosses:
    """Compute flow, estimate, harm, identification and routing losses of one micro-batch.

    Args:
        restorer: The restorer.
        batch: The micro-batch.
        last: If true, the optimizer steps after this micro-batch; the routing losses are computed only then, over all since its last step.
        micro_batches: Micro-batches of a full accumulation window.

    Raises:
        ValueError: The latents exceed the backbone's position embedding.
    """
    draws = draw_names(batch, restorer.global_step)
    degraded, clean = restorer.backbone.encode_side(batch, "lq"), restorer.backbone.encode_side(batch, "gt", draws)
    degradation = batch["degradation"]
    if restorer.cleaned_share:
        degraded, degradation = clean_in_some_steps(restorer, degraded, degradation)
    reroute = restorer.routing_window.reroute() if last and restorer.balance.active else None
    conditioning = restorer.conditioner(degraded, reroute=reroute)
    losses: dict[str, torch.Tensor] = {}
    tokens: list[TokenRouting] = []
    if restorer.flow_weight:
        losses["flow"] = restorer.flow_weight * flow_loss(
            restorer, degraded, clean, conditioning, draws, degradation=degradation, on_tokens=tokens.append
        )
    if restorer.estimate_weight:
        assert conditioning.estimate is not None, "check_heads requires an estimate"
        estimate = conditioning.estimate
        if restorer.gate_estimate != "none":
            estimate = gated(degraded, estimate, degradation, conditioning.identified, by=restorer.gate_estimate, caution=restorer.caution)
        losses["estimate"] = restorer.estimate_weight * estimate_loss(estimate, clean, restorer.estimate_norm)
        if restorer.harm_weight:
            losses["harm"] = restorer.harm_weight * harm_loss(estimate, degraded, clean)
    if restorer.identify_weight:
        losses["identify"] = restorer.identify_weight * identify_loss(conditioning.identified, degradation)
    if restorer.balance.active:
        losses |= _routing_losses(restorer, conditioning, degradation, last, micro_batches)
    losses |= expert_losses(restorer.backbone.moe, tokens)
    return StepLosses(losses, conditioning.routing, tokens)


def _routing_losses(
    restorer: Restorer, conditioning: Conditioning, degradation: torch.Tensor, last: bool, micro_batches: int
) -> dict[str, torch.Tensor]:
    """Return the weighted routing losses of the accumulation window on its last micro-batch, and none before."""
    if last:
        return restorer.routing_window.losses(restorer.balance, conditioning, degradation, micro_batches)
    restorer.routing_window.add(conditioning, degradation)
    return {}


def freeze_unreached(restorer: Restorer) -> None:
    """Freeze what no loss reaches, so that every trainable parameter has a gradient in every step, as DDP requires."""
    conditioner, flow = restorer.conditioner, restorer.flow_weight > 0
    restorer.backbone.choose_what_trains(flow, own_output=restorer.output_layer is None)
    if restorer.output_layer is not None:
        restorer.output_layer.requires_grad_(flow)
    if restorer.identify_weight == 0 and conditioner.identification is not None:
        conditioner.identification.requires_grad_(False)
    if not flow:
        conditioner.projections.requires_grad_(False)
        conditioner.timestep_scale.requires_grad_(False)
    estimated = restorer.estimate_weight > 0 or (restorer.anchor == "estimate" and flow)
    if not estimated and conditioner.estimate_head is not None:
        conditioner.estimate_head.requires_grad_(False)
