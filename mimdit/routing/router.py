"""Router of one gate: from global image statistics to a decision over N choices.

Shape legend: B images, C channels, F features (F = 2C), N choices, K chosen, P width of a prototype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from mimdit.routing.routing import Gates

MODES = ("dense", "sparse", "uniform")
ROUTERS = ("linear", "prototype")

MIN_TEMPERATURE = 0.01
"""Least temperature of a prototype router."""


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


class Gating(nn.Module, ABC):
    """Base of the routers: checks the mode, and turns logits over ``num_choices`` into gates.

    Args:
        num_choices: Number N of groups or sub-experts.
        mode: ``dense`` (softmax weights for all choices), ``sparse`` (only the ``top_k`` most probable) or ``uniform`` (equal weights).
        top_k: Choices kept by ``sparse``, 1..N. Their weights are renormalized to sum to one, except for ``top_k=1``: a constant weight
            would give the router no gradient.

    Raises:
        ValueError: ``mode`` is unknown, or ``top_k`` is out of range.
    """

    per_choice: tuple[str, ...]
    """Names of the parameters whose first axis is the choices."""

    def __init__(self, num_choices: int, *, mode: str, top_k: int) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"router mode {mode!r} is unknown; choose one of {', '.join(MODES)}")
        if mode == "sparse" and not 1 <= top_k <= num_choices:
            raise ValueError(f"top_k={top_k} of {num_choices} cannot be chosen; set it to 1..{num_choices} or raise the number of experts")
        self.mode, self.top_k = mode, top_k if mode == "sparse" else num_choices

    @abstractmethod
    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Return logits ``[B, N]`` of fp32 features, in fp32."""

    def forward(self, features_BF: torch.Tensor) -> Gates:
        """Return each image's gates for ``features_BF``, computed in fp32 at any surrounding precision."""
        with outside_autocast(features_BF):
            logits_BN = self.logits(features_BF.float())
            if self.mode == "uniform":
                logits_BN = torch.zeros_like(logits_BN)
            return decide(logits_BN, self.top_k)


class Router(Gating):
    """Linear gate in fp32 over ``num_choices`` (paper: the gating networks of Inter-MoE and Intra-MoE).

    The paper does not give the gates' input; `router_features` are not in the paper.

    Args:
        num_features: Length F of the feature vector.
        num_choices: Number N of groups or sub-experts.
        mode: ``dense``, ``sparse`` or ``uniform``; see `Gating`.
        top_k: Choices kept by ``sparse``, 1..N.

    Raises:
        ValueError: ``mode`` is unknown, or ``top_k`` is out of range.
    """

    per_choice = ("linear.weight", "linear.bias")

    def __init__(self, num_features: int, num_choices: int, *, mode: str = "sparse", top_k: int = 2) -> None:
        super().__init__(num_choices, mode=mode, top_k=top_k)
        self.linear = nn.Linear(num_features, num_choices)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        if mode == "uniform":
            self.linear.requires_grad_(False)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Return the linear layer's output ``[B, N]``."""
        return nn.functional.linear(features_BF, self.linear.weight.float(), self.linear.bias.float())


class PrototypeRouter(Gating):
    """Gate in fp32 by cosine similarity to one learned prototype per choice (after ProMoE, arXiv 2510.24711). Not in the paper.

    The logits are ``cos(project(features), prototype) / temperature``, within ``±1 / temperature``.

    Args:
        num_features: Length F of the feature vector.
        num_choices: Number N of groups or sub-experts.
        mode: ``dense``, ``sparse`` or ``uniform``; see `Gating`.
        top_k: Choices kept by ``sparse``, 1..N.
        temperature: Divisor of the cosines, at least 0.01; the initial value if it is learned.
        learned: If true, the temperature is a parameter, kept at 0.01 or above.
        width: Length P of projected features and prototypes.

    Raises:
        ValueError: ``mode`` is unknown, or ``top_k`` or ``temperature`` is out of range.
    """

    per_choice = ("prototypes_NP",)

    def __init__(
        self, num_features: int, num_choices: int, *, mode: str = "sparse", top_k: int = 2, temperature: float = 0.1,
        learned: bool = False, width: int = 32,
    ) -> None:  # fmt: skip
        super().__init__(num_choices, mode=mode, top_k=top_k)
        if temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"router temperature {temperature} is below {MIN_TEMPERATURE}; set it to {MIN_TEMPERATURE} or more, such as 0.1"
            )
        self.project = nn.Linear(num_features, width)
        self.prototypes_NP = nn.Parameter(torch.randn(num_choices, width))
        self.fixed_temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor([temperature]).log()) if learned else None
        if mode == "uniform":
            self.requires_grad_(False)

    def temperature(self) -> torch.Tensor | float:
        """Return the divisor of the cosines."""
        return self.fixed_temperature if self.log_temperature is None else self.log_temperature.float().exp().clamp_min(MIN_TEMPERATURE)

    def logits(self, features_BF: torch.Tensor) -> torch.Tensor:
        """Return the cosines over the temperature, ``[B, N]``."""
        projected_BP = nn.functional.linear(features_BF, self.project.weight.float(), self.project.bias.float())
        return nn.functional.normalize(projected_BP, dim=-1) @ self._directions().T / self.temperature()

    def similarities(self) -> torch.Tensor:
        """Return the cosines ``[N, N]`` between the prototypes."""
        directions_NP = self._directions()
        return directions_NP @ directions_NP.T

    def _directions(self) -> torch.Tensor:
        return nn.functional.normalize(self.prototypes_NP.float(), dim=-1)


@dataclass(frozen=True)
class RouterOptions:
    """Kind of all routers of a conditioner.

    Attributes:
        kind: ``linear`` (`Router`) or ``prototype`` (`PrototypeRouter`).
        temperature: Divisor of the cosines of ``prototype``.
        learned: If true, the temperature is learned.

    Raises:
        ValueError: ``kind`` is unknown, or ``learned`` is set for ``linear``.
    """

    kind: str = "linear"
    temperature: float = 0.1
    learned: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        if self.kind not in ROUTERS:
            raise ValueError(f"router {self.kind!r} is unknown; choose one of {', '.join(ROUTERS)}")
        if self.learned and self.kind != "prototype":
            raise ValueError(f"learn_temperature: true needs router: prototype; router: {self.kind} has no temperature")

    def make(self, num_features: int, num_choices: int, *, mode: str, top_k: int) -> Router | PrototypeRouter:
        """Return a new router."""
        if self.kind == "linear":
            return Router(num_features, num_choices, mode=mode, top_k=top_k)
        cosine = {"temperature": self.temperature, "learned": self.learned}
        return PrototypeRouter(num_features, num_choices, mode=mode, top_k=top_k, **cosine)


LINEAR = RouterOptions()
"""The paper's routers."""


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
