"""Steering: scale the dense gates' weights by expert group or by degradation, on top of the routers' decisions. Not in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mimdit.core.batch import ATOMS
from mimdit.core.named_numbers import parse_named_numbers
from mimdit.routing.routing import Routing
from mimdit.routing.utilization import group_labels

CLEAN = "clean"


@dataclass(frozen=True)
class MeasuredGates:
    """Mean weights of the dense gates, measured on images with a single degradation. Not in the paper.

    Attributes:
        means: Weights ``[M, G]`` by the name of the degradation, ``clean`` for none.
        images: Number of images, by the same names.
    """

    means: dict[str, torch.Tensor]
    images: dict[str, int]

    @staticmethod
    def over(records: list[tuple[Routing, torch.Tensor]]) -> MeasuredGates:
        """Average routing records with their multi-hot degradations ``[B, A]``; images with several degradations are left out."""
        found: dict[str, list[torch.Tensor]] = {}
        for routing, degradation in records:
            for index, row in enumerate(degradation > 0.5):
                if row.sum() <= 1:
                    name = ATOMS[int(row.float().argmax())] if row.any() else CLEAN
                    found.setdefault(name, []).append(routing.inter.weights[:, index].cpu())
        names = [name for name in (CLEAN, *ATOMS) if name in found]
        return MeasuredGates({name: torch.stack(found[name]).mean(dim=0) for name in names}, {name: len(found[name]) for name in names})

    def as_json(self) -> dict:
        """Return a dictionary that can be written as JSON."""
        return {"means": {name: mean.tolist() for name, mean in self.means.items()}, "images": self.images}

    @staticmethod
    def from_json(content: dict) -> MeasuredGates:
        """Read the result of `as_json`."""
        return MeasuredGates({name: torch.tensor(mean) for name, mean in content["means"].items()}, content["images"])


def gains(steer: Mapping[str, float], groups: tuple[str, ...], num_blocks: int, measured: MeasuredGates | None) -> torch.Tensor:
    """Return factors ``[M, G]`` for the dense gates' weights, which are scaled to their former sum afterwards. Not in the paper.

    A factor named after an expert group multiplies its weight: 0 disables it, 1 changes nothing. One named after a degradation applies its
    measured effect on the gates, ``(mean with it / mean of clean images)**(value - 1)``: 0 removes the effect, 1 changes nothing, 2 doubles
    it. It changes only the weights of the groups; sub-experts and the estimate's tone still follow the image, so the degradation itself may
    stay.

    Args:
        steer: Factors, at least 0, by name.
        groups: Expert groups of the conditioner.
        num_blocks: Blocks M of the conditioner.
        measured: Measured gates; None if there are none.

    Raises:
        ValueError: A name is unknown, its value is negative, no gates were measured for it, or no group is left.
    """
    check_factors(steer)
    factors = torch.ones(num_blocks, len(groups))
    labels = group_labels(groups)
    for name, value in steer.items():
        if name in groups or name in labels:
            for index, (group, label) in enumerate(zip(groups, labels)):
                if name in (group, label):
                    factors[:, index] *= value
        elif name in ATOMS:
            if measured is None or name not in measured.means or CLEAN not in measured.means:
                remedy = f"write it by mimdit export --data=…, or steer groups: {', '.join(dict.fromkeys(groups))}"
                raise ValueError(f"steer {name}={value:g}: this restorer's folder does not say how {name} moves the gates; {remedy}")
            factors *= ((measured.means[name] + 1e-6) / (measured.means[CLEAN] + 1e-6)) ** (value - 1)
        else:
            known = [*dict.fromkeys(groups), *ATOMS]
            raise ValueError(f"steer {name!r} is neither a group nor a degradation; choose from {', '.join(known)}")
    if not factors.any(dim=1).all():
        raise ValueError("steer leaves no group at all; let one keep more than 0")
    return factors


def check_factors(steer: Mapping[str, float]) -> None:
    """Check the values of ``steer``.

    Raises:
        ValueError: A value is negative or not finite.
    """
    for name, value in steer.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"steer {name}={value:g} must be finite and at least 0; 1 changes nothing")


def parse_steer(text: str) -> dict[str, float]:
    """Parse ``haze=0,channel=2``.

    Raises:
        ValueError: A part is not ``name=number``, or a name comes twice.
    """
    return parse_named_numbers(text, option="steer", example="name=value, such as haze=0 or haze=0,channel=2")
