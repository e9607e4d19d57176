"""A checkpoint in parts, where files that leave a machine may not be large."""

from __future__ import annotations

from pathlib import Path

from mimdit.core.files import replace_when_whole

PART = 15 << 20
"""Bytes of a part, below 16 MiB."""


def split(checkpoint: Path, folder: Path, part: int = PART) -> list[str]:
    """Copy ``checkpoint`` to ``folder`` as ``checkpoint.00``, ``checkpoint.01`` …; return their names. Older parts are removed."""
    for old in folder.glob("checkpoint.[0-9][0-9]"):
        old.unlink()
    names = []
    with checkpoint.open("rb") as file:
        while data := file.read(part):
            names.append(f"checkpoint.{len(names):02d}")
            (folder / names[-1]).write_bytes(data)
    return names


def join(folder: Path, checkpoint: Path) -> Path:
    """Write the parts in ``folder`` as one file, and return it.

    Raises:
        ValueError: There are no parts.
    """
    parts = sorted(folder.glob("checkpoint.[0-9][0-9]"))
    if not parts:
        raise ValueError(f"{folder} has no checkpoint.00; give the --out folder of an earlier training")
    with replace_when_whole(checkpoint) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    return checkpoint
