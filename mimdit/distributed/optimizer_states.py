"""Optimiser states by the names of the parameters, for shards, and by their numbers, as PyTorch's optimisers and single files have them."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def parameter_names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """Names of the optimiser's parameters, in the order of their numbers: group by group."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def by_name(state: dict, names: list[str]) -> dict:
    """An optimiser's ``state_dict`` with ``names`` for numbers."""
    groups = [group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def by_number(state: dict) -> dict:
    """The inverse of `by_name`; a state that has numbers already is returned as it is."""
    names = list(chain.from_iterable(group["params"] for group in state["param_groups"]))
    if not all(isinstance(name, str) for name in names):
        return state
    numbers = {name: number for number, name in enumerate(names)}
    groups = [group | {"params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def check_names(state: dict, names: list[str]) -> None:
    """Refuse a state whose parameters are not ``names`` in that order; one with numbers does not tell, and passes.

    Raises:
        ValueError: It belongs to other parameters.
    """
    saved = list(chain.from_iterable(group["params"] for group in state["param_groups"]))
    if all(isinstance(name, str) for name in saved) and saved != names:
        other = sorted(set(saved) ^ set(names)) or ["their order"]
        shown = ", ".join(other[:5]) + (", …" if len(other) > 5 else "")
        raise ValueError(
            f"the checkpoint's optimiser trained other parameters than this one ({shown}); resume with the model it was saved with"
        )
