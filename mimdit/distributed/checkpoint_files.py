"""Checkpoints of either form, single files and folders: read without running anybody's code, and found where they are complete."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from mimdit.distributed.optimizer_states import by_number
from mimdit.distributed.sharded_checkpoint import REPLACED, WRITING, read_index, read_meta, read_sharded, what_is_missing
from mimdit.distributed.torch_files import load_plain, save_plain

_REMOVING = ".removing"
_LEFTOVER = re.compile(rf"\.(.*\.ckpt)(?:{re.escape(WRITING)}|{re.escape(REPLACED)}|{re.escape(_REMOVING)}|\.[0-9]+-[0-9a-f]+\.tmp)")
"""Hidden names of checkpoints that are being written, replaced or removed, in either form; see `mimdit.core.files.replace_when_whole`."""


def read_checkpoint(path: str | Path, *, weights_only: bool = True) -> dict:
    """A checkpoint with whole tensors in memory, as a single file has them, from a file or a sharded folder.

    Raises:
        ValueError: It is not a complete checkpoint, or holds objects whose loading could run code.
    """
    if Path(path).is_dir():
        checkpoint = read_sharded(path)
        if "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"] = [by_number(state) for state in checkpoint["optimizer_states"]]
        return checkpoint
    return read_checkpoint_file(path, weights_only=weights_only)


def read_checkpoint_file(path: str | Path, *, weights_only: bool = True, mmap: bool = False) -> dict:
    """A single-file checkpoint.

    Args:
        path: The file.
        weights_only: Refuse whatever is not tensors and plain values. False runs what code the file's author put there.
        mmap: Leave the tensors in the file until they are looked at; it must stay as it is while they are used.

    Raises:
        ValueError: It is missing, not complete, or holds more than that.
    """
    if "://" in str(path):
        raise ValueError(f"{path} is not a local file; download it first")
    if not Path(path).is_file():
        raise ValueError(f"{path} is not a checkpoint; give a .ckpt file or folder that mimdit fit wrote")
    return load_plain(path, weights_only=weights_only, mmap=mmap)


def read_hyper_parameters(path: str | Path) -> dict:
    """How the model in a checkpoint, file or folder, was built; empty if it does not say."""
    path = Path(path)
    if path.is_dir():
        problem = what_is_missing(path)
        if problem is not None:
            raise ValueError(f"{path} is not a complete checkpoint: {problem}; take an older one")
        return read_meta(path).get("hyper_parameters", {})
    return read_checkpoint_file(path, mmap=True).get("hyper_parameters", {})


def newest_complete(folder: str | Path) -> Path | None:
    """The complete checkpoint in ``folder``, file or folder, with the most steps (of several, the one written last); None if there is none.

    Counted too is a folder under the hidden name that it was written under, when a run died after the last byte and before the renaming.
    """
    found = [path for path in Path(folder).iterdir() if not path.is_symlink()] if Path(folder).is_dir() else []
    ranked = [(step, path.stat().st_mtime, path) for path in found if (step := steps_of(path)) is not None]
    return max(ranked)[2] if ranked else None


def steps_of(path: Path) -> int | None:
    """Optimiser steps of a complete checkpoint, file or folder; None for anything else."""
    if path.is_dir():
        return None if what_is_missing(path) else read_index(path)["global_step"]
    if path.suffix != ".ckpt" or not zipfile.is_zipfile(path):
        return None
    return read_checkpoint_file(path, mmap=True).get("global_step")


def size_of(path: Path) -> int:
    """Bytes of a checkpoint, file or folder."""
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def remove_checkpoint(path: Path) -> None:
    """Remove a file or folder; a folder changes its name first, so that no part of one passes for a checkpoint."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}{_REMOVING}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def tidy(folder: Path) -> None:
    """Finish what a run that was killed left half done in ``folder``: name what is complete, remove the rest. Nobody may write there."""
    for path in [path for path in folder.glob(".*") if _LEFTOVER.fullmatch(path.name)]:
        name = _LEFTOVER.fullmatch(path.name)[1]
        if path.name.endswith(WRITING) and what_is_missing(path) is None:
            if (older := path.with_name(name)).exists():
                remove_checkpoint(older)
            path.rename(path.with_name(name))
        else:
            remove_checkpoint(path)


class WholeCheckpointIO(TorchCheckpointIO):
    """Single files, written whole or not at all, and read without running code; the folders of `FSDP2Strategy` are read as well.

    ``mimdit fit`` and its sisters use it unless the config names another; in Python, ``Trainer(plugins=[WholeCheckpointIO()])``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside ``path``, sync and rename: Lightning's own would copy it over from the system's temporary folder.

        Raises:
            OSError: It cannot be written; an older file of that name stays.
        """
        if storage_options is not None:
            raise ValueError("WholeCheckpointIO writes to a file system and takes no storage_options")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_plain(checkpoint, path)

    def load_checkpoint(self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file or folder into this process's memory; only ``weights_only=False`` lets a file run code."""
        return read_checkpoint(path, weights_only=weights_only is not False)
