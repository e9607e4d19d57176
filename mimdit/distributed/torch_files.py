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
    """What `torch.save` wrote.

    Args:
        path: The file.
        weights_only: Refuse whatever is not tensors and plain values. False runs what code the file's author put there.
        mmap: Leave the tensors in the file until they are looked at.

    Raises:
        ValueError: The file is not complete, or holds more than that.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a checkpoint, or not a complete one: it is no archive of PyTorch's; take an older one")
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=mmap)
    except pickle.UnpicklingError as error:
        reason = _REASON.search(str(error))
        reason = reason[0].rstrip(".") if reason else "it cannot be read as such"
        raise ValueError(
            f"{path} holds more than tensors and plain values ({reason}): loading it would run code of whoever made it, so it is refused; "
            "if you made it yourself, load it with weights_only=False and save its state_dict again"
        ) from error


def save_plain(held: dict, path: str | Path) -> None:
    """`torch.save` to ``path``, whole or not at all.

    Raises:
        OSError: The file cannot be written, for example because the disk is full; what was there before stays.
    """
    with replace_when_whole(path) as temporary:
        try:
            torch.save(held, temporary)
        except RuntimeError as error:
            if "inline_container.cc" not in str(error):  # PyTorch's writer of archives
                raise
            raise _what_the_system_says(temporary, path) from error


def _what_the_system_says(temporary: Path, path: str | Path) -> OSError:
    """PyTorch's writer loses the system's reason, so it is asked again by writing a little more."""
    try:
        with open(temporary, "ab") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return OSError(error.errno, error.strerror, str(path))
    return OSError(errno.EIO, "PyTorch could not write it", str(path))
