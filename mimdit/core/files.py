"""Writing files so that a reader sees them whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_when_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends well, sync it, rename it to ``path`` and sync the folder, else remove it.

    Processes, also of other machines, may write the same path at the same time: each has a temporary file of its own, the last one stays.
    The file is as readable as any other new file: safetensors writes for its owner alone, which would shut out a cluster's shared folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.umask(umask := os.umask(0))
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some network file systems cannot sync a folder and say so with these
            raise
    finally:
        os.close(descriptor)
