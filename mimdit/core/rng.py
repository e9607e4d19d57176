"""Random numbers by name: a draw depends on its key only, not on ranks, workers, batches or earlier draws."""

import hashlib

import torch


def keyed_generator(*key: object) -> torch.Generator:
    """Return a CPU generator seeded by the parts of ``key``, as strings: the same key gives the same generator in any process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
