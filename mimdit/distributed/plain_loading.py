"""Reading a file of PyTorch's without running the code that a pickle may hold."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch

_REASON = re.compile(r"(Unsupported|Trying to|Can only)[^\n]*")


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
