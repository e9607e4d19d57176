"""Text files that name pairs, as FoundIR's own meta info does."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datamodules.sources.group_names import is_group
from datamodules.sources.members import Member
from datamodules.sources.pairing import SIDES, Reject, SourcePair


def read_list(root: Path, meta: Path) -> Iterator[SourcePair | Reject]:
    """Yield what each line "GT, LQ" of a list names, in its order; a line with a missing file or a known stem is rejected.

    Raises:
        ValueError: The list cannot be read, a line is not two relative paths, the ground truth first, or it names no group.
    """
    try:
        lines = meta.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{meta} cannot be read as a list ({error}).") from error
    first_lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        gt, lq = _paths(line, f"{meta}, line {number}")
        group, stem = _place(gt, f"{meta}, line {number}")
        lq_group, _ = _place(lq, f"{meta}, line {number}")
        members = [_member(root, path) for path in (lq, gt)]
        first = first_lines.setdefault((group, stem), number)
        if lq_group != group:
            yield Reject(group, stem, f"line {number}: its LQ image is in another group, {lq_group}")
        elif first != number:
            yield Reject(group, stem, f"line {number}: line {first} has this stem already")
        elif missing := [str(path) for path, member in zip((lq, gt), members) if member is None]:
            yield Reject(group, stem, f"line {number}: {' and '.join(missing)} is missing")
        else:
            yield SourcePair(group, stem, *members)


def _paths(line: str, where: str) -> tuple[PurePosixPath, PurePosixPath]:
    """The paths of a line, ground truth first."""
    paths = [PurePosixPath(part.strip()) for part in line.split(",")]
    if len(paths) != 2 or any(path.is_absolute() or not path.name or ".." in path.parts for path in paths):
        raise ValueError(f'{where} is {line!r}: a line must be "GT, LQ", two paths below the root with one comma between them.')
    for path, side, other in zip(paths, SIDES, reversed(SIDES)):
        folders = {folder.upper() for folder in path.parts[:-1]}
        if other in folders and side not in folders:
            raise ValueError(f"{where} is {line!r}: the ground truth (GT) comes first, the degraded image (LQ) second.")
    return paths[0], paths[1]


def _place(path: PurePosixPath, where: str) -> tuple[str, str]:
    """The group and the stem of a path."""
    folders = path.parts[:-1]
    place = next((place for place, folder in enumerate(folders) if is_group(folder)), None)
    if place is None:
        raise ValueError(f"{where}: no folder of {path} is named as a group, such as 08Haze or 09Lowlight_Haze.")
    below = 1 + max([place, *(side for side, folder in enumerate(folders) if folder.upper() in SIDES)])
    return folders[place], "/".join([*folders[below:], path.stem])


def _member(root: Path, path: PurePosixPath) -> Member | None:
    """The file at a path; None if it is not there."""
    try:
        found = os.stat(root / path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Member(str(path), str(path), found.st_size) if stat.S_ISREG(found.st_mode) else None
