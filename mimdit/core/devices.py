"""Devices by name."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """Return a device by its name, such as ``cuda:1``; ``auto`` is an accelerator where there is one, else the CPU.

    Raises:
        ValueError: The name is unknown, or this machine has no such device.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for the device
        raise ValueError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); give auto or cpu") from error
