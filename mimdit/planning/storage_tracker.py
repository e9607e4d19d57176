"""Tracker of the memory of live tensors, for tensors with and without data."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageTracker(TorchDispatchMode):
    """Dispatch mode that sums the sizes of live storages on one type of device; PyTorch's ``MemTracker`` (2.14) fails on frozen weights.

    A storage counts from the operator that returns it until it dies. Buffers that a kernel allocates and frees inside, and fragmentation,
    are not seen.

    Args:
        device_type: Type of the device whose storages count.
        block: Sizes are rounded up to multiples of this, in bytes, as an allocator does: 512 for CUDA's.

    Attributes:
        live: Bytes now.
        peak: Largest ``live`` so far, or since it was last set.
    """

    def __init__(self, device_type: str, block: int = 1) -> None:
        super().__init__()
        self.device_type, self.block = device_type, block
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._resize: Callable[..., Any] | None = None

    def __enter__(self) -> StorageTracker:
        """Follow ``UntypedStorage.resize_`` too: FSDP2 frees gathered weights by it, past the dispatcher."""
        tracker, resize = self, torch.UntypedStorage.resize_

        def followed(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if storage._cdata in tracker._sizes:
                tracker._set(storage._cdata, storage.nbytes())
            return result

        self._resize = resize
        setattr(torch.UntypedStorage, "resize_", followed)  # noqa: B010  (a method of a C class)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop tracking; later deaths of storages still count."""
        setattr(torch.UntypedStorage, "resize_", self._resize)  # noqa: B010
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator and add the storages that it returns."""
        result = func(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DTensor):  # a DTensor's slice comes by itself
                self.add(leaf)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Add the storage of ``tensor`` unless it is known or of another device."""
        device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device  # a fake tensor's own property is slow
        if device.type != self.device_type:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            if self._sizes[key] != self._rounded(storage.nbytes()):  # `Tensor.resize_`
                self._set(key, storage.nbytes())
            return
        self._sizes[key] = 0
        self._set(key, storage.nbytes())
        weakref.finalize(storage, partial(self._forget, key)).atexit = False

    def _rounded(self, size: int) -> int:
        return -(-size // self.block) * self.block

    def _set(self, key: int, size: int) -> None:
        size = self._rounded(size)
        self.live += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
