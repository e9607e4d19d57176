"""Steering: telling the dense gates what is wrong with a picture, instead of leaving it to them alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mimdit.core.batch import ATOMS
from mimdit.routing.routing import Routing
from mimdit.routing.utilization import group_labels

CLEAN = "clean"


@dataclass(frozen=True)
class MeasuredGates:
    """The dense gates' mean weights ``[M, G]`` over images with one degradation alone, by its name, ``clean`` for none. (ours)

    ``images`` says how many there were of each.
    """

    means: dict[str, torch.Tensor]
    images: dict[str, int]

    @staticmethod
    def over(records: list[tuple[Routing, torch.Tensor]]) -> MeasuredGates:
        """From routing records and their multi-hot ``[B, A]``; images with several degradations are left out."""
        found: dict[str, list[torch.Tensor]] = {}
        for routing, degradation in records:
            for index, row in enumerate(degradation > 0.5):
                if row.sum() <= 1:
                    name = ATOMS[int(row.float().argmax())] if row.any() else CLEAN
                    found.setdefault(name, []).append(routing.inter.weights[:, index].cpu())
        names = [name for name in (CLEAN, *ATOMS) if name in found]
        return MeasuredGates({name: torch.stack(found[name]).mean(dim=0) for name in names}, {name: len(found[name]) for name in names})

    def as_json(self) -> dict:
        """Plain lists."""
        return {"means": {name: mean.tolist() for name, mean in self.means.items()}, "images": self.images}

    @staticmethod
    def from_json(content: dict) -> MeasuredGates:
        """What `as_json` made."""
        return MeasuredGates({name: torch.tensor(mean) for name, mean in content["means"].items()}, content["images"])


def gains(wishes: dict[str, float], groups: tuple[str, ...], num_blocks: int, measured: MeasuredGates | None) -> torch.Tensor:
    """Factors ``[M, G]`` for the dense gates' weights, which are then scaled to their old sum. (ours)

    A group's name multiplies its weight: 0 leaves it out, 1 changes nothing. A degradation's name moves the gates along the way that it
    was measured to move them, ``(mean with it / mean of clean images)**(value - 1)``: at 0 what it does to the gates is taken away, at 1
    nothing is changed, at 2 it is done twice. That says how the gates weigh, not that the degradation itself goes: sub-experts and the
    estimate's tone decide for themselves.

    Raises:
        ValueError: A name is neither, its value is negative, no gates were measured for it, or no group is left.
    """
    factors = torch.ones(num_blocks, len(groups))
    labels = group_labels(groups)
    for name, value in wishes.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"steer {name}={value:g} must be finite and at least 0; 1 changes nothing")
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


def parse_wishes(text: str) -> dict[str, float]:
    """``haze=0,channel=2`` as a dictionary; ValueError where it is something else."""
    wishes = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            wishes[name.strip()] = float(value) if equals else float("nan")
        except ValueError:
            wishes[name.strip()] = float("nan")
        if wishes[name.strip()] != wishes[name.strip()]:
            raise ValueError(f"steer {part!r} cannot be read; write name=value, such as haze=0 or haze=0,channel=2")
    return wishes
