"""The router of one gate: global image statistics in, a decision over N choices out.

Shape legend: B images, C channels, F features (F = 2C), N choices, K chosen.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from mimdit.routing.routing import Gates

MODES = ("dense", "sparse", "uniform")


def outside_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """No autocast on the device of ``tensor``; the meta device, on which FLOPs are counted, knows none and refuses to be asked."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def router_features(hidden_states: torch.Tensor) -> torch.Tensor:
    """Mean and log-std over the positions of un-normalised ``hidden_states [B, C, H, W]``, as fp32 ``[B, 2C]``.

    The spread tells degradations apart where the mean alone cannot: noise and blur leave the mean where it was. (ours)
    """
    with outside_autocast(hidden_states):
        std, mean = torch.std_mean(hidden_states.float(), dim=(2, 3), correction=0)
        return torch.cat([mean, (std + 1e-4).log()], dim=1)


class PooledFeatures:
    """`router_features` of an image that comes in pieces: their means and spreads are put together (Chan et al. 1979), in fp64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, piece: torch.Tensor) -> None:
        """Take in the positions of ``piece [B, C, H, W]``."""
        with outside_autocast(piece):
            variance, mean = (moment.cpu().double() for moment in torch.var_mean(piece.float(), dim=(2, 3), correction=0))
        count = piece.shape[2] * piece.shape[3]
        apart, total = mean - self.mean, self.count + count
        self.squares = self.squares + variance * count + apart.square() * (self.count * count / total)
        self.mean, self.count = self.mean + apart * (count / total), total

    def features(self) -> torch.Tensor:
        """Mean and log-std, fp32 ``[B, 2C]``, on the CPU."""
        std = (self.squares / self.count).clamp_min(0).sqrt().float()
        return torch.cat([self.mean.float(), (std + 1e-4).log()], dim=1)


class Router(nn.Module):
    """A linear gate in fp32 over ``num_choices`` (paper: the gating networks of Inter-MoE and Intra-MoE; what it reads is ours).

    Args:
        num_features: Length F of the feature vector.
        num_choices: Number N of groups or sub-experts.
        mode: ``dense`` weighs all choices by a softmax, ``sparse`` keeps the ``top_k`` most probable, ``uniform`` weighs all alike.
        top_k: Choices kept by ``sparse``, 1..N. Their weights are renormalised to sum to one, except for 1: a constant would give
            the router no gradient.
    """

    def __init__(self, num_features: int, num_choices: int, *, mode: str = "sparse", top_k: int = 2) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"router mode {mode!r} is unknown; choose one of {', '.join(MODES)}")
        if mode == "sparse" and not 1 <= top_k <= num_choices:
            raise ValueError(f"top_k={top_k} of {num_choices} cannot be chosen; set it to 1..{num_choices} or raise the number of experts")
        self.mode, self.top_k = mode, top_k if mode == "sparse" else num_choices
        self.linear = nn.Linear(num_features, num_choices)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        if mode == "uniform":
            self.linear.requires_grad_(False)

    def forward(self, features_BF: torch.Tensor) -> Gates:
        """Decide for each image; all of it in fp32 whatever the precision around it."""
        with outside_autocast(features_BF):
            logits_BN = nn.functional.linear(features_BF.float(), self.linear.weight.float(), self.linear.bias.float())
            if self.mode == "uniform":
                logits_BN = torch.zeros_like(logits_BN)
            return decide(logits_BN, self.top_k)


def decide(logits: torch.Tensor, top_k: int) -> Gates:
    """Turn logits ``[..., N]`` into gates that keep the ``top_k`` most probable choices.

    The softmax comes before the selection, as in Mixtral (arXiv 2401.04088): with one choice its weight still has a gradient.
    """
    probs = logits.softmax(dim=-1)
    top_probs, indices = probs.topk(top_k, dim=-1)
    if top_k == probs.shape[-1]:
        return Gates(logits, probs, indices, probs)
    kept = top_probs if top_k == 1 else top_probs / top_probs.sum(dim=-1, keepdim=True)
    return Gates(logits, probs, indices, torch.zeros_like(probs).scatter(-1, indices, kept))
