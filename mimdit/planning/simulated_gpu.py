"""Device type that stands for a GPU on machines without one: shapes without data, streams without work, CUDA's autocast.

Fake CUDA tensors do not do: their backward pass needs a context of the driver. PyTorch lets a Python module take the place of a backend
(``PrivateUse1``), which works in any build. It cannot be undone, so only processes that do nothing else use it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim.optimizer import _foreach_supported_types
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from mimdit.planning import autocast_rules

NAME = "simulated"
"""Type of the device."""


class ShapesOnly(FakeTensorMode):
    """Mode in which tensors have a shape, a type and a device, and no data; no device is initialized."""

    @property
    def avoid_device_init(self) -> bool:
        """Return true, also beside a backend that says it is there."""
        return True


class Stream(torch.cpu.Stream):
    """Stream on which nothing waits."""

    def record_event(self, event: torch.cpu.Event | None = None) -> torch.cpu.Event:
        """Return an event; a CPU's stream returns none, and FSDP2 needs one where it keeps several copies of the weights."""
        return torch.cpu.Event()


_STREAM = Stream()


class Module:
    """The module ``torch.simulated``, with what PyTorch requires of a device's module.

    Args:
        capability: CUDA capability of the GPU that it stands for.
    """

    Stream, Event, stream, StreamContext = Stream, torch.cpu.Event, staticmethod(torch.cpu.stream), torch.cpu.StreamContext

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.libraries: tuple[torch.library.Library, ...] = ()

    def current_stream(self, device: Any = None) -> Stream:
        """Return the stream."""
        return _STREAM

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        """Return the capability, whatever the device."""
        return self.capability

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return the types that autocast takes."""
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        """Return true."""
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def current_device(self) -> int:
        """Return 0."""
        return 0

    def set_device(self, device: Any) -> None:
        """Do nothing: there is one device."""

    synchronize = manual_seed_all = set_device

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        """Return the CPU's state."""
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        """Do nothing: no numbers are drawn."""


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Attend by a fused kernel, as on a GPU: neither keeps the matrix of scores."""
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


def install(capability: tuple[int, int]) -> None:
    """Add the device to PyTorch; for the life of the process."""
    module = Module(capability)
    _setup_privateuseone_for_python_backend(NAME, module)
    setattr(torch.accelerator, "current_stream", module.current_stream)  # noqa: B010  (its own has no stream of a Python backend)
    _foreach_supported_types.append(FakeTensor)  # else optimizers go weight by weight, as they do not on a GPU
    attention = torch.library.Library("aten", "IMPL")
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        attention.impl("scaled_dot_product_attention", _attention, key)
    module.libraries = (autocast_rules.register(NAME), attention)
