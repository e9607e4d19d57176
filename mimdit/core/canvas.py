"""Canvases: tensors as large as the whole image, processed in pieces. Large ones are backed by files, not by memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import torch

IN_A_FILE = 32 << 20
"""Size in bytes from which a CPU canvas is backed by a file."""

_AT_ONCE = 1 << 18
"""Approximate number of positions in a slice of rows."""


def canvas(*shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Allocate an uninitialized tensor; from 32 MiB on CPU it is backed by an anonymous memory-mapped file.

    The operating system keeps as much of it in memory as fits. The file disappears with the tensor, however the process ends. ``TMPDIR``
    sets its folder; a folder in memory, such as a tmpfs, saves nothing. Not in the paper.

    Args:
        *shape: Shape of the tensor.
        device: Device of the tensor; only CPU tensors are backed by a file.
        dtype: Data type of the tensor.

    Raises:
        OSError: The disk has no room for the file.
    """
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < IN_A_FILE:
        return torch.empty(shape, dtype=dtype, device=device)
    with tempfile.TemporaryFile(prefix="mimdit-") as file:
        if hasattr(os, "posix_fallocate"):  # with a sparse file, a full disk would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        mapped = np.memmap(file, np.uint8, mode="r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(shape)


def in_rows(height: int, width: int) -> Iterator[slice]:
    """Yield slices that cover ``height`` rows, each of about 2^18 positions."""
    step = max(1, _AT_ONCE // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))
