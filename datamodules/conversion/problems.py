"""What stops a conversion, what only costs it a pair, and how both are told."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BadImageError(ValueError):
    """An image, or a pair of them, that cannot be used; the message is the reason that is recorded."""


class FullDiskError(ValueError):
    """No space is left where the shards go."""


class ConversionStoppedError(ValueError):
    """The conversion cannot go on; says why, what is finished and how to continue."""


@contextmanager
def told_when_full(destination: Path) -> Iterator[None]:
    """Turn the system's error about a full disk into a `FullDiskError` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        limit = "quota is used up" if error.errno == errno.EDQUOT else "disk is full"
        raise FullDiskError(f"The {limit} where {destination} lies.") from error
