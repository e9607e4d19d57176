"""Canvases: tensors of the size of the whole image, of which little is worked on at a time. Large ones lie in files, not in memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import torch

IN_A_FILE = 32 << 20
"""Bytes from which a canvas of the host lies in a file."""

_AT_ONCE = 1 << 18
"""Positions of a slice of rows."""


def canvas(*shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An empty tensor that, on the CPU and from 32 MiB on, is a mapped file without a name in the folder for temporary files.

    The system keeps as much of it in memory as is free. The file is gone with the tensor, however the process ends. ``TMPDIR`` chooses
    the folder; one that is itself in memory saves none. (ours)

    Raises:
        OSError: There is no room for the file.
    """
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or size < IN_A_FILE:
        return torch.empty(shape, dtype=dtype, device=device)
    with tempfile.TemporaryFile(prefix="mimdit-") as file:
        if hasattr(os, "posix_fallocate"):  # a sparse file would end the process where the disk is full
            os.posix_fallocate(file.fileno(), 0, size)
        mapped = np.memmap(file, np.uint8, mode="r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(shape)


def in_rows(height: int, width: int) -> Iterator[slice]:
    """Slices of rows that go through ``height`` rows, of about a quarter of a million positions each."""
    step = max(1, _AT_ONCE // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))
