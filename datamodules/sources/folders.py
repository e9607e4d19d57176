"""Images in folders."""

import os
from collections.abc import Iterator
from pathlib import Path

from datamodules.sources.members import Member
from datamodules.sources.pairing import FoundImage, Side, split_image_path


def images_below(folder: Path, root: Path, side: Side) -> Iterator[FoundImage]:
    """Yield every image in ``folder`` and below it; its stem is its path below ``folder`` without suffix, its source is below ``root``."""
    above = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                path = below + entry.name
                if entry.is_dir() and not entry.name.startswith("."):
                    waiting.append(path + "/")
                elif entry.is_file() and (parts := split_image_path(path)) is not None:
                    name = above + path
                    yield FoundImage(side, "/".join(parts), Member(name, name, entry.stat().st_size))


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
