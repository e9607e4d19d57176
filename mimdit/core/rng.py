"""Random numbers by name: a draw depends on its key only, not on ranks, workers, batches or earlier draws."""

import hashlib
from collections.abc import Sequence

import torch


def keyed_generator(*key: object) -> torch.Generator:
    """Return a CPU generator seeded by the parts of ``key``, as strings: the same key gives the same generator in any process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to ``device``; from the CPU to a CUDA device through pinned memory, so that the host does not wait."""
    if device.type == "cuda" and values.device.type == "cpu" and torch.cuda.is_available():  # a simulated device has no pinned memory
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def draw_normals(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> torch.Tensor:
    """Return unit normals ``[len(generators), *shape]`` on ``device``, fp32, drawn on the CPU, one item from each generator.

    The host does not wait for a CUDA device: the copy is from pinned memory.
    """
    pinned = device.type == "cuda" and torch.cuda.is_available()  # a simulated device has no pinned memory
    drawn = torch.empty((len(generators), *shape), dtype=torch.float32, pin_memory=pinned)
    for item, generator in zip(drawn, generators):
        torch.randn(tuple(shape), generator=generator, dtype=torch.float32, out=item)
    return drawn.to(device, non_blocking=True)
