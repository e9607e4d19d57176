"""Sharding for a rank by itself: shares of the others are not cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class FirstChunk(TorchFunctionMode):
    """Mode in which ``torch.chunk`` returns its first chunk once per requested chunk.

    FSDP2 cuts every weight into as many chunks as there are ranks, twice, and uses the first, for the size, and this rank's. For rank 0
    that is the same, and on fake tensors 512 views of each of a thousand weights take minutes.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run a function, ``torch.chunk`` only for the first chunk."""
        if func not in (torch.chunk, torch.Tensor.chunk):
            return func(*args, **kwargs or {})
        tensor, chunks, dim = _arguments(*args, **kwargs or {})
        return [tensor.narrow(dim, 0, min(tensor.shape[dim], -(-tensor.shape[dim] // chunks)))] * chunks


def _arguments(input: torch.Tensor, chunks: int, dim: int = 0) -> tuple[torch.Tensor, int, int]:
    return input, chunks, dim
