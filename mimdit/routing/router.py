"""Router of one gate: from global image statistics to a decision over N choices.

Shape legend: B images, C channels, F features (F = 2C), N choices, K chosen.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from mimdit.routing.routing import Gates

MODES = ("dense", "sparse", "uniform")


def outside_autocast(tensor: torch.Tensor) -> AbstractContextManager:
    """Disable autocast on the device of ``tensor``; a no-op on the meta device (used to count FLOPs), which has no autocast."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def router_features(hidden_states: torch.Tensor) -> torch.Tensor:
    """Return mean and log-std over the positions of un-normalized ``hidden_states [B, C, H, W]``, fp32 ``[B, 2C]``.

    The spread separates degradations that the mean does not: noise and blur hardly change the mean. Not in the paper.
    """
    with outside_autocast(hidden_states):
        std, mean = torch.std_mean(hidden_states.float(), dim=(2, 3), correction=0)
        return torch.cat([mean, (std + 1e-4).log()], dim=1)


class PooledFeatures:
    """Accumulator of `router_features` over the pieces of an image, in fp64 (parallel variance, Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def add(self, piece: torch.Tensor) -> None:
        """Add the positions of ``piece [B, C, H, W]``."""
        with outside_autocast(piece):
            variance, mean = (moment.cpu().double() for moment in torch.var_mean(piece.float(), dim=(2, 3), correction=0))
        count = piece.shape[2] * piece.shape[3]
        apart, total = mean - self.mean, self.count + count
        self.squares = self.squares + variance * count + apart.square() * (self.count * count / total)
        self.mean, self.count = self.mean + apart * (count / total), total

    def features(self) -> torch.Tensor:
        """Return mean and log-std, fp32 ``[B, 2C]``, on the CPU."""
        std = (self.squares / self.count).clamp_min(0).sqrt().float()
        return torch.cat([self.mean.float(), (std + 1e-4).log()], dim=1)


class Router(nn.Module):
    """Linear gate in fp32 over ``num_choices`` (paper: the gating networks of Inter-MoE and Intra-MoE).

    The paper does not give the gates' input; `router_features` are not in the paper.

    Args:
        num_features: Length F of the feature vector.
        num_choices: Number N of groups or sub-experts.
        mode: ``dense`` (softmax weights for all choices), ``sparse`` (only the ``top_k`` most probable) or ``uniform`` (equal weights).
        top_k: Choices kept by ``sparse``, 1..N. Their weights are renormalized to sum to one, except for ``top_k=1``: a constant weight
            would give the router no gradient.

    Raises:
        ValueError: ``mode`` is unknown, or ``top_k`` is out of range.
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
        """Return each image's gates for ``features_BF``, computed in fp32 at any surrounding precision."""
        with outside_autocast(features_BF):
            logits_BN = nn.functional.linear(features_BF.float(), self.linear.weight.float(), self.linear.bias.float())
            if self.mode == "uniform":
                logits_BN = torch.zeros_like(logits_BN)
            return decide(logits_BN, self.top_k)


def decide(logits: torch.Tensor, top_k: int) -> Gates:
    """Return gates from logits ``[..., N]`` that keep the ``top_k`` most probable choices.

    The softmax precedes the selection, as in Mixtral (arXiv 2401.04088): with one choice, its weight still has a gradient.
    """
    probs = logits.softmax(dim=-1)
    top_probs, indices = probs.topk(top_k, dim=-1)
    if top_k == probs.shape[-1]:
        return Gates(logits, probs, indices, probs)
    kept = top_probs if top_k == 1 else top_probs / top_probs.sum(dim=-1, keepdim=True)
    return Gates(logits, probs, indices, torch.zeros_like(probs).scatter(-1, indices, kept))
