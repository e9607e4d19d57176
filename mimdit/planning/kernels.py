"""Counter of operators: their floating-point operations, bytes and number, from which a table of hardware gives a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mimdit.training.flops import FORMULAS

aten = torch.ops.aten

_FORMULAS = FlopCounterMode(display=False, custom_mapping=FORMULAS).flop_registry
_NO_KERNEL = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach, aten.lift_fresh,
    aten._unsafe_view, aten.set_, aten.resize_, aten.is_same_size, aten.stride, aten.size, aten.sym_size, aten._local_scalar_dense,
    aten.is_pinned,
}  # fmt: skip
"""Operators that start no kernel, beside views."""

_ATTENTION_BACKWARD = (aten._scaled_dot_product_flash_attention_backward, aten._scaled_dot_product_efficient_attention_backward)
_WITHOUT_RECOMPUTATION = 4 / 5
"""Products of attention's backward pass that are not the recomputed scores."""


@dataclass(frozen=True)
class Kernel:
    """Operators of equal cost.

    Attributes:
        name: The operator.
        precision: ``half``, ``single`` or ``other``, of its floating-point operations.
        flops: Floating-point operations of matrix products, convolutions and attention; 0 for all others.
        bytes: Bytes read and written.
    """

    name: str
    precision: str
    flops: int
    bytes: int


class KernelCounter(TorchDispatchMode):
    """Dispatch mode that counts operators on one type of device.

    Args:
        device_type: Type of the device.

    Attributes:
        found: Operators that start a kernel, each with the number of kernels.
        views: Operators that only describe a tensor anew: they cost the host a little and the device nothing.
        waits: Values that the host reads from the device.
        flops: Floating-point operations of the model: without recomputation, by fused attention or by checkpoints.
        late: Those of ``found`` that were counted while `is_late` was true.
        is_late: Set to true while gradients can be sent: from the first whole one to the end of the backward pass.
        in_backward: Set to true while a backward pass runs: what it does with gradients recorded is recomputation.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.in_backward = self.is_late = False
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.found: Counter[Kernel] = Counter()
        self.late: Counter[Kernel] = Counter()
        self.views = self.waits = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator and count it; a value that the host reads is 1, as shapes have none."""
        packet = func.overloadpacket
        if packet is aten._local_scalar_dense:
            self.waits += self._is_here(args[0])
            return 1.0 if args[0].is_floating_point() else (True if args[0].dtype == torch.bool else 1)
        result = func(*args, **kwargs or {})
        if func.namespace in ("c10d", "_c10d_functional", "prim") or any(isinstance(leaf, DTensor) for leaf in tree_leaves((args, result))):
            return result  # a DTensor's slice comes by itself
        if func.is_view or packet in _NO_KERNEL:
            self.views += 1
            return result
        read, written = (
            [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor) and self._is_here(leaf)] for values in (args, result)
        )
        if not (read or written):
            return result
        moved = sum(map(_size, read)) + sum(map(_size, written))
        flops = _FORMULAS[packet](*args, **kwargs or {}, out_val=result) if packet in _FORMULAS else 0
        if not (self.in_backward and torch.is_grad_enabled()):
            self.flops += int(flops * (_WITHOUT_RECOMPUTATION if packet in _ATTENTION_BACKWARD else 1))
        kernels = 1
        if packet.__name__.startswith("_foreach"):  # a kernel takes some fifty tensors
            kernels = -(-max(len(read), len(written)) // 50)
            moved //= kernels
        kernel = Kernel(packet.__name__, _precision(read), int(flops), int(moved))
        self.found[kernel] += kernels
        if self.is_late:
            self.late[kernel] += kernels
        return result

    def _is_here(self, tensor: torch.Tensor) -> bool:
        device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
        return device.type == self.device_type


def _size(tensor: torch.Tensor) -> int:
    """Return the bytes that a kernel moves for ``tensor``: expanded ones are read once."""
    return min(tensor.numel() * tensor.dtype.itemsize, tensor.untyped_storage().nbytes())


def _precision(read: list[torch.Tensor]) -> str:
    """Return the precision of the first operand; a later one may be statistics in fp32."""
    dtype = next((tensor.dtype for tensor in read if tensor.dtype.is_floating_point), None)
    if dtype is None:
        return "other"
    return "half" if dtype.itemsize <= 2 else "single"
