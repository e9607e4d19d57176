"""Checkpoints of both forms, single files and sharded folders: read without running code, find the newest complete one, clean up."""

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
"""Hidden names of checkpoints being written, replaced or removed, in both forms; see `mimdit.core.files.replace_when_whole`."""


def read_checkpoint(path: str | Path, *, weights_only: bool = True) -> dict:
    """Read a file or a sharded folder as a checkpoint with whole tensors in memory.

    Args:
        path: The file or folder.
        weights_only: If false, run any code pickled in a single file; folders never run code.

    Raises:
        ValueError: The checkpoint is incomplete, or holds objects whose loading could run code.
    """
    if Path(path).is_dir():
        checkpoint = read_sharded(path)
        if "optimizer_states" in checkpoint:
            checkpoint["optimizer_states"] = [by_number(state) for state in checkpoint["optimizer_states"]]
        return checkpoint
    return read_checkpoint_file(path, weights_only=weights_only)


def read_checkpoint_file(path: str | Path, *, weights_only: bool = True, mmap: bool = False) -> dict:
    """Read a single-file checkpoint.

    Args:
        path: The file.
        weights_only: If true, refuse everything but tensors and plain values. If false, run any code pickled in the file.
        mmap: If true, map the tensors into memory; the file must not change while they are in use.

    Raises:
        ValueError: The file is missing, incomplete, or holds more than tensors and plain values although ``weights_only`` is true.
    """
    if "://" in str(path):
        raise ValueError(f"{path} is not a local file; download it first")
    if not Path(path).is_file():
        raise ValueError(f"{path} is not a checkpoint; give a .ckpt file or folder that mimdit fit wrote")
    return load_plain(path, weights_only=weights_only, mmap=mmap)


def read_hyper_parameters(path: str | Path) -> dict:
    """Return the hyperparameters of the model in a checkpoint, file or folder; empty if it has none.

    Raises:
        ValueError: The checkpoint is incomplete, or holds objects whose loading could run code.
    """
    path = Path(path)
    if path.is_dir():
        problem = what_is_missing(path)
        if problem is not None:
            raise ValueError(f"{path} is not a complete checkpoint: {problem}; use an older one")
        return read_meta(path).get("hyper_parameters", {})
    return read_checkpoint_file(path, mmap=True).get("hyper_parameters", {})


def newest_complete(folder: str | Path) -> Path | None:
    """Return the complete checkpoint in ``folder``, file or folder, with the most steps; None if there is none.

    Of several with equal steps, the one written last is returned. A complete folder that still has the hidden name under which it was
    written counts too: the run died before it could rename it.
    """
    found = [path for path in Path(folder).iterdir() if not path.is_symlink()] if Path(folder).is_dir() else []
    ranked = [(step, path.stat().st_mtime, path) for path in found if (step := steps_of(path)) is not None]
    return max(ranked)[2] if ranked else None


def steps_of(path: Path) -> int | None:
    """Return the optimizer steps of a complete checkpoint, file or folder; None for anything else."""
    if path.is_dir():
        return None if what_is_missing(path) else read_index(path)["global_step"]
    if path.suffix != ".ckpt" or not zipfile.is_zipfile(path):
        return None
    return read_checkpoint_file(path, mmap=True).get("global_step")


def size_of(path: Path) -> int:
    """Return the bytes of a checkpoint, file or folder."""
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def remove_checkpoint(path: Path) -> None:
    """Remove a file or folder; a folder is renamed first, so that a partly removed one is not taken for a checkpoint."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}{_REMOVING}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def tidy(folder: Path) -> None:
    """Clean up after a killed run: rename hidden checkpoints that are complete, and remove the others.

    No run may be writing to ``folder``.
    """
    for path, name in [(path, found[1]) for path in folder.glob(".*") if (found := _LEFTOVER.fullmatch(path.name))]:
        if path.name.endswith(WRITING) and what_is_missing(path) is None:
            if (older := path.with_name(name)).exists():
                remove_checkpoint(older)
            path.rename(path.with_name(name))
        else:
            remove_checkpoint(path)


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin for single files: atomic writing, and reading without running code. It also reads folders of `FSDP2Strategy`.

    ``mimdit fit``, ``validate``, ``test`` and ``predict`` use it unless the config names another. In Python:
    ``Trainer(plugins=[WholeCheckpointIO()])``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a temporary file in the same folder, sync it and rename it; Lightning copies it from the system's temporary folder.

        Raises:
            OSError: The file cannot be written; an older file at ``path`` stays.
            ValueError: ``storage_options`` are given.
        """
        if storage_options is not None:
            raise ValueError("WholeCheckpointIO writes to a file system and takes no storage_options")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_plain(checkpoint, path)

    def load_checkpoint(self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file or folder into CPU memory; a file can run code only with ``weights_only=False``."""
        return read_checkpoint(path, weights_only=weights_only is not False)
