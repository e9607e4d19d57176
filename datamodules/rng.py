"""Random generators keyed by names: their numbers do not depend on earlier draws."""

import hashlib

import numpy as np


def named_rng(*names: str | int) -> np.random.Generator:
    """Return the generator of a tuple of names, the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(str(name) for name in names).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
