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
from torch import nn

from mimdit.routing.routing import Routing


class RoutingBalance(L.LightningModule):
    """Named, unweighted routing losses from a `Routing` record (paper: the load-balancing loss).

    The paper does not give the weights; each loss names its source below. ``specialization``, ``contrast`` and ``guide`` are not in the
    paper. A weight of 0 switches a loss off at no cost.

    Args:
        balance: Weight of the Switch loss ``E * sum_i f_i P_i`` on the sparse gates (arXiv 2101.03961 eq. 4; over the global batch as in
            arXiv 2501.11873). Its minimum is 1, at uniform routing.
        z: Weight of the router z-loss ``mean(logsumexp(logits)^2)`` on all gates (arXiv 2202.08906 eq. 5), which keeps logits small.
        importance: Weight of the squared coefficient of variation of the dense gates' mean probabilities (arXiv 1701.06538 eq. 7). Its
            minimum is 0, at uniform probabilities.
        specialization: Weight of minus the mutual information between degradation and sub-expert (as in Mod-Squad, arXiv 2212.08066, with
            degradations for tasks). Its minimum is ``-min(log D, log E)``; 0 at uniform routing.
        contrast: Weight of `contrast_loss`, which pulls each prototype to what was routed to it (after ProMoE, arXiv 2510.24711). Needs
            ``router: prototype``. Its minimum is above 0; log E if all prototypes are the same.
        guide: Weight of `guide_loss`, the cross-entropy that guides each degradation to its own prototype. Needs ``router: prototype``.

    Raises:
        ValueError: A weight is negative.
    """

    def __init__(
        self, *, balance: float = 1e-2, z: float = 1e-3, importance: float = 1e-2, specialization: float = 0.0, contrast: float = 0.0,
        guide: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weights = {"balance": balance, "z": z, "importance": importance, "specialization": specialization}
        self.weights |= {"contrast": contrast, "guide": guide}
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
            degradation: Multi-hot ``[B, A]``, needed only by ``specialization`` and ``guide``.

        Raises:
            ValueError: ``specialization`` or ``guide`` is switched on and ``degradation`` is None.
        """
        needing = [name for name in ("specialization", "guide") if self.weights[name]]
        if degradation is None and needing:
            raise ValueError(
                f"the routing loss {needing[0]} compares routing with degradations; pass the batch's degradation, or set {needing[0]}: 0"
            )
        local = self._local_statistics(routing, degradation)
        world = global_mean(local)
        losses = {}
        if self.weights["balance"]:
            losses["balance"] = switch_loss(world["load"], local["importance_MGE"])
        if self.weights["z"]:
            losses["z"] = z_loss(routing)
        if self.weights["importance"]:
            losses["importance"] = importance_cv2(straight_through(local["importance_MG"], world["importance_MG"]))
        if self.weights["specialization"]:
            losses["specialization"] = -mutual_information(straight_through(local["joint"], world["joint"])).mean()
        if self.weights["contrast"]:
            losses["contrast"] = contrast_loss(straight_through(local["attraction"], world["attraction"]), world["received"])
        if self.weights["guide"]:
            assert degradation is not None  # checked above
            losses["guide"] = guide_loss(routing, degradation)
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
            assert degradation is not None  # checked in `forward`
            statistics["joint"] = torch.einsum("bd,mgbe->mgde", degradation_shares(degradation), intra.probs) / len(degradation)
        if self.weights["contrast"]:
            weights, logits = intra.weights.detach(), intra.logits
            statistics["attraction"] = torch.einsum("mgbi,mgbj->mgij", logits, weights) / logits.shape[2]
            statistics["received"] = weights.mean(dim=2)
        return statistics


def switch_loss(load_MGE: torch.Tensor, importance_MGE: torch.Tensor) -> torch.Tensor:
    """Return ``E * sum_i f_i P_i``, averaged over blocks and groups; 1 for a group of one expert."""
    return ((load_MGE * importance_MGE).sum(dim=-1) * load_MGE.shape[-1]).mean()


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


def contrast_loss(attraction: torch.Tensor, received: torch.Tensor) -> torch.Tensor:
    """Return the mean over prototypes i of ``-log softmax_j(s_ij)`` at ``j = i``, averaged over gates.

    ``s_ij`` is the cosine of prototype i and what was routed to expert j, over the temperature: the mean logit i of the images of j,
    weighted by their gates. The mean is over directions of unit length and is itself not rescaled to unit length. Experts that no image
    chose are in neither mean nor sum; a gate with one expert in use has the loss 0.

    Args:
        attraction: Mean over images of logit i times the weight of expert j, ``[..., E, E]``.
        received: Mean over images of the weight of expert j, ``[..., E]``; without gradient.
    """
    used = received > 0
    similarity = attraction / torch.where(used, received, 1.0)[..., None, :]
    own = similarity.masked_fill(~used[..., None, :], -torch.inf).log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
    return -(own.masked_fill(~used, 0).sum(dim=-1) / used.sum(dim=-1)).mean()


def guide_loss(routing: Routing, degradation: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the sparse gates with the images' degradations, averaged over images, groups and blocks.

    Atom a of degradation belongs to sub-expert ``a mod E``, and "none" is the last atom; an image with several atoms is shared among them.

    Args:
        routing: The record of B images.
        degradation: Multi-hot ``[B, A]``.
    """
    shares_BD, num_experts = degradation_shares(degradation.float()), routing.intra.logits.shape[-1]
    owners_D = torch.arange(shares_BD.shape[1], device=shares_BD.device) % num_experts
    target_BE = shares_BD @ nn.functional.one_hot(owners_D, num_experts).float()
    return -(target_BE * routing.intra.logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def degradation_shares(degradation: torch.Tensor) -> torch.Tensor:
    """Divide each image among its atoms: multi-hot ``[B, A]`` to rows ``[B, A + 1]`` that sum to one, with "none" as the last column."""
    none = (degradation.sum(dim=1, keepdim=True) == 0).to(degradation.dtype)
    shares = torch.cat([degradation, none], dim=1)
    return shares / shares.sum(dim=1, keepdim=True)


def straight_through(local: torch.Tensor, world: torch.Tensor) -> torch.Tensor:
    """Return the value of ``world`` with the gradient of ``local``."""
    return local + (world - local).detach()


def global_mean(local: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean of each statistic over ranks, in one stacked all-reduce without gradient."""
    flat = torch.cat([value.detach().float().flatten() for value in local.values()])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flat)
        flat = flat / dist.get_world_size()
    parts = flat.split([value.numel() for value in local.values()])
    return {name: part.view_as(value) for (name, value), part in zip(local.items(), parts)}
