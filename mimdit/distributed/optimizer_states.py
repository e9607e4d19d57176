"""Conversion of optimizer states between parameter names, used in sharded folders, and numbers, used by PyTorch and in single files."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def parameter_names(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[str]:
    """Return the names of the optimizer's parameters in the order of their numbers, group by group."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def by_name(state: dict, names: list[str]) -> dict:
    """Return an optimizer's ``state_dict`` with ``names`` in place of numbers."""
    groups = [group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def by_number(state: dict) -> dict:
    """Return a state with numbers in place of names, the inverse of `by_name`; a state with numbers is returned unchanged."""
    names = list(chain.from_iterable(group["params"] for group in state["param_groups"]))
    if not all(isinstance(name, str) for name in names):
        return state
    numbers = {name: number for number, name in enumerate(names)}
    groups = [group | {"params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def check_names(state: dict, names: list[str]) -> None:
    """Check that the parameters of a state are ``names`` in that order; a state with numbers passes unchecked.

    Raises:
        ValueError: The state belongs to other parameters.
    """
    saved = list(chain.from_iterable(group["params"] for group in state["param_groups"]))
    if all(isinstance(name, str) for name in saved) and saved != names:
        other = sorted(set(saved) ^ set(names)) or ["their order"]
        shown = ", ".join(other[:5]) + (", …" if len(other) > 5 else "")
        raise ValueError(
            f"the checkpoint's optimizer has other parameters than this one ({shown}); resume with the model it was saved with"
        )
