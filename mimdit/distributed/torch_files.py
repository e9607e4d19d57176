"""Files of `torch.save`: read without running pickled code, written whole or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from pathlib import Path

import torch

from mimdit.core.files import replace_when_whole

_REASON = re.compile(r"(Unsupported|Trying to|Can only)[^\n]*")
_PROBE = bytes(1 << 20)


def load_plain(path: str | Path, *, weights_only: bool = True, mmap: bool = False) -> dict:
    """Read a file of `torch.save` into CPU memory.

    Args:
        path: The file.
        weights_only: If true, refuse everything but tensors and plain values. If false, run any code pickled in the file.
        mmap: If true, map the tensors into memory; they are read when first accessed.

    Raises:
        ValueError: The file is not complete, or holds more than tensors and plain values although ``weights_only`` is true.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a checkpoint or is incomplete: it is not a PyTorch archive; use an older one")
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = _REASON.search(str(error))
        reason = reason[0].rstrip(".") if reason else "of unknown kind"
        raise ValueError(
            f"{path} holds more than tensors and plain values ({reason}): loading it would run code of its author, so it is refused; "
            "if you made it yourself, load it with weights_only=False and save its state_dict again"
        ) from error


def save_plain(held: dict, path: str | Path) -> None:
    """Write ``held`` to ``path`` by an atomic `torch.save` that re-raises the operating system's own error.

    Raises:
        OSError: The file cannot be written, for example because the disk is full; an older file at ``path`` stays.
    """
    with replace_when_whole(path) as temporary:
        try:
            torch.save(held, temporary)
        except RuntimeError as error:
            if "inline_container.cc" not in str(error):  # the archive writer of PyTorch
                raise
            raise _system_error(temporary, path) from error


def _system_error(temporary: Path, path: str | Path) -> OSError:
    """Return the system's error, which PyTorch's writer loses, by writing a little more to the same file."""
    try:
        with open(temporary, "ab") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return OSError(error.errno, error.strerror, str(path))
    return OSError(errno.EIO, "PyTorch could not write it", str(path))
