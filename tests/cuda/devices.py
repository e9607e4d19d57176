"""The device under test: CUDA, or with MIMDIT_TEST_DEVICE=cpu the CPU, to try the tests themselves where there is no GPU."""

import dataclasses
import os
from typing import Any

import torch

DEVICE = torch.device(os.environ.get("MIMDIT_TEST_DEVICE", "cuda"))
BACKEND = "nccl" if DEVICE.type == "cuda" else "gloo"


def moved(value: Any, device: torch.device | str = DEVICE) -> Any:
    """Tensors and modules, also those inside dictionaries, lists, tuples and records, on ``device``."""
    if dataclasses.is_dataclass(value):
        return type(value)(**{field.name: moved(getattr(value, field.name), device) for field in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(part, device) for part in value)
    return value.to(device) if hasattr(value, "to") else value


def error_of(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error relative to the largest expected value; infinite for NaN."""
    error = (actual.detach().cpu().double() - expected.detach().cpu().double()).abs().max()
    relative = float(error / expected.detach().abs().max().clamp_min(1e-20).cpu())
    return relative if relative == relative else float("inf")


def assert_near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float) -> None:
    assert actual.keys() == expected.keys()
    errors = {name: error_of(actual[name], value) for name, value in expected.items() if value is not None}
    worst = max(errors, key=errors.get)
    assert errors[worst] <= bound, f"{worst} differs by {errors[worst]:.1e} of its largest value, of {len(errors)} tensors: {errors}"


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients of the trained parameters, on the CPU; every one must be there."""
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in found.values()), [name for name, gradient in found.items() if gradient is None]
    return {name: gradient.detach().cpu().clone() for name, gradient in found.items()}
