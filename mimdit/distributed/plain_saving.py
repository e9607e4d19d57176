"""Writing a file of PyTorch's so that what the system refuses is told as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import torch

from mimdit.core.files import replace_when_whole

_PROBE = bytes(1 << 20)


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
