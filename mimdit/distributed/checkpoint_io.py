"""WholeCheckpointIO: how strategies that keep whole weights read and write checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO

from mimdit.distributed.checkpoint_files import read_checkpoint
from mimdit.distributed.plain_saving import save_plain


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
