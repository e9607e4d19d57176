"""Atomic writing of files: a reader sees a whole file or none."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_when_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success, sync it, rename it to ``path`` and sync the folder, else remove it.

    Several processes, even on different machines, may write the same path at the same time: each uses its own temporary file, and the last
    rename wins. The file gets the permissions of any new file; safetensors would make it readable only by its owner, which fails in a
    cluster's shared folder.

    Raises:
        OSError: The file cannot be written; an older file at ``path`` stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        give_usual_permissions(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def give_usual_permissions(path: Path) -> None:
    """Give a file the permissions of any new file; some libraries make theirs readable only by their owner."""
    os.umask(umask := os.umask(0))
    path.chmod(0o666 & ~umask)


def sync_folder(folder: Path) -> None:
    """Sync a folder so that its file names survive a power failure, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # the answer of network file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)
