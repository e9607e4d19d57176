"""Losses that keep every expert in use and still allow experts to specialize.

All statistics cover the *global* batch. With per-image routing a rank has only a few images; balancing those few would penalize a batch of
one degradation for being routed alike. Linear statistics need only global counts; the others use the straight-through value
``local + (global - local).detach()``, whose gradient, averaged over ranks as DDP does, is exactly the gradient of the concatenated batch.
Equal numbers of images on every rank are assumed, as the training stream delivers them.

Shape legend: M MiM blocks, G expert groups, B images of this rank, E sub-experts, K chosen, A atoms of degradation, D = A + 1 with "none".
"""

from __future__ import annotations

import lightning as L
import torch
import torch.distributed as dist

from mimdit.routing.routing import Routing


class RoutingBalance(L.LightningModule):
    """Named, unweighted routing losses from a `Routing` record (paper: the load-balancing loss).

    The paper does not give the weights; each loss names its source below. ``specialization`` is not in the paper. A weight of 0 switches a
    loss off at no cost.

    Args:
        balance: Weight of the Switch loss ``E * sum_i f_i P_i`` on the sparse gates (arXiv 2101.03961 eq. 4; over the global batch as in
            arXiv 2501.11873). Its minimum is 1, at uniform routing.
        z: Weight of the router z-loss ``mean(logsumexp(logits)^2)`` on all gates (arXiv 2202.08906 eq. 5), which keeps logits small.
        importance: Weight of the squared coefficient of variation of the dense gates' mean probabilities (arXiv 1701.06538 eq. 7). Its
            minimum is 0, at uniform probabilities.
        specialization: Weight of minus the mutual information between degradation and sub-expert (as in Mod-Squad, arXiv 2212.08066, with
            degradations for tasks). Its minimum is ``-min(log D, log E)``; 0 at uniform routing.

    Raises:
        ValueError: A weight is negative.
    """

    def __init__(self, *, balance: float = 1e-2, z: float = 1e-3, importance: float = 1e-2, specialization: float = 0.0) -> None:
        super().__init__()
        self.weights = {"balance": balance, "z": z, "importance": importance, "specialization": specialization}
        for name, weight in self.weights.items():
            if weight < 0:
                raise ValueError(f"routing loss weight {name}={weight} is negative; use 0 to switch it off")

    @property
    def active(self) -> bool:
        """True if any loss is switched on."""
        return any(self.weights.values())

    def forward(self, routing: Routing, degradation: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the losses that are switched on, each a scalar in fp32.

        Args:
            routing: The record of this rank's images. For exact gradients over accumulated micro-batches it must cover the whole window
                (see ``reroute`` of `MoEConditioner.forward`).
            degradation: Multi-hot ``[B, A]``, needed only by ``specialization``.

        Raises:
            ValueError: ``specialization`` is switched on and ``degradation`` is None.
        """
        local = self._local_statistics(routing, degradation)
        world = _global_mean(local)
        losses = {}
        if self.weights["balance"]:
            losses["balance"] = switch_loss(world["load"], local["importance_MGE"], routing.mask_GE)
        if self.weights["z"]:
            losses["z"] = z_loss(routing)
        if self.weights["importance"]:
            losses["importance"] = importance_cv2(straight_through(local["importance_MG"], world["importance_MG"]))
        if self.weights["specialization"]:
            losses["specialization"] = -mutual_information(straight_through(local["joint"], world["joint"])).mean()
        return losses

    def _local_statistics(self, routing: Routing, degradation: torch.Tensor | None) -> dict[str, torch.Tensor]:
        intra = routing.intra
        chosen = torch.zeros_like(intra.probs).scatter(-1, intra.indices, 1.0)
        statistics = {
            "load": (chosen.mean(dim=2) / intra.indices.shape[-1]).detach(),
            "importance_MGE": intra.probs.mean(dim=2),
            "importance_MG": routing.inter.probs.mean(dim=1),
        }
        if self.weights["specialization"]:
            if degradation is None:
                raise ValueError(
                    "the specialization loss compares experts with degradations: pass the batch's degradation, or set specialization: 0"
                )
            statistics["joint"] = torch.einsum("bd,mgbe->mgde", degradation_shares(degradation), intra.probs) / len(degradation)
        return statistics


def switch_loss(load_MGE: torch.Tensor, importance_MGE: torch.Tensor, mask_GE: torch.Tensor) -> torch.Tensor:
    """Return ``E * sum_i f_i P_i``, averaged over blocks and groups; 1 for a group of one expert."""
    num_experts_G = mask_GE.sum(dim=-1)
    return ((load_MGE * importance_MGE).sum(dim=-1) * num_experts_G).mean()


def z_loss(routing: Routing) -> torch.Tensor:
    """Return the mean squared log-sum-exp over all gates of all images."""
    inter, intra = routing.inter.logits.logsumexp(-1).square(), routing.intra.logits.logsumexp(-1).square()
    return (inter.sum() + intra.sum()) / (inter.numel() + intra.numel())


def importance_cv2(importance_MG: torch.Tensor) -> torch.Tensor:
    """Return the squared coefficient of variation over groups (population variance), averaged over blocks."""
    return (importance_MG.var(dim=-1, correction=0) / importance_MG.mean(dim=-1).square()).mean()


def mutual_information(joint: torch.Tensor) -> torch.Tensor:
    """Return the mutual information ``[...]``, in nats, of joint distributions ``[..., D, E]``."""
    independent = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return (joint * ((joint + 1e-9) / (independent + 1e-9)).log()).sum(dim=(-2, -1))


def degradation_shares(degradation: torch.Tensor) -> torch.Tensor:
    """Divide each image among its atoms: multi-hot ``[B, A]`` to rows ``[B, A + 1]`` that sum to one, with "none" as the last column."""
    none = (degradation.sum(dim=1, keepdim=True) == 0).to(degradation.dtype)
    shares = torch.cat([degradation, none], dim=1)
    return shares / shares.sum(dim=1, keepdim=True)


def straight_through(local: torch.Tensor, world: torch.Tensor) -> torch.Tensor:
    """Return the value of ``world`` with the gradient of ``local``."""
    return local + (world - local).detach()


def _global_mean(local: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean of each statistic over ranks, in one stacked all-reduce without gradient."""
    flat = torch.cat([value.detach().float().flatten() for value in local.values()])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flat)
        flat = flat / dist.get_world_size()
    parts = flat.split([value.numel() for value in local.values()])
    return {name: part.view_as(value) for (name, value), part in zip(local.items(), parts)}
