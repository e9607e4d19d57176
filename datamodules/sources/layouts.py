"""Layouts of image pairs: group names, folders, lists, and FoundIR's archives.

FoundIR is released as one archive per group, often in volumes, with ``GT/`` and ``LQ/`` inside.
"""

import os
import stat
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from datamodules.degradations.groups import atoms_of_group
from datamodules.sources.members import Member
from datamodules.sources.pairing import SIDES, FoundImage, Reject, Side, SourcePair, split_image_path
from datamodules.sources.spanned_zip import Volumes, list_members, volume_number

NO_GROUP = "not named as a group"
"""Reason why an archive or a folder is skipped."""

_TOTAL = "_total"


@cache
def is_group(name: str) -> bool:
    """Return true if a name is a degradation group's, such as ``08Haze``."""
    try:
        atoms_of_group(name)
    except ValueError:
        return False
    return True


def choose_groups(groups: Collection[str] | None, present: Collection[str], where: object) -> list[str]:
    """Return the groups to list, sorted: all ``present`` ones if ``groups`` is None.

    Raises:
        ValueError: A chosen group is not present.
    """
    if groups is None:
        return sorted(present)
    if absent := sorted(set(groups) - set(present)):
        raise ValueError(f"{where} has no group {', '.join(absent)}. It has {', '.join(sorted(present)) or 'none'}.")
    return sorted(set(groups))


def images_below(folder: Path, root: Path, side: Side) -> Iterator[FoundImage]:
    """Yield every image in ``folder`` and below it.

    Its stem is its path below ``folder`` without suffix; its source is its path below ``root``.
    """
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
    """Return the folders in a folder that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def read_list(root: Path, meta: Path) -> Iterator[SourcePair | Reject]:
    """Yield the pair of each line "GT, LQ" of a list, in order; a line with a missing file or a repeated stem is rejected.

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
        lq_member, gt_member = _member(root, lq), _member(root, gt)
        first = first_lines.setdefault((group, stem), number)
        if lq_group != group:
            yield Reject(group, stem, f"line {number}: its LQ image is in another group, {lq_group}")
        elif first != number:
            yield Reject(group, stem, f"line {number}: line {first} has this stem already")
        elif lq_member is None or gt_member is None:
            missing = [str(path) for path, member in ((lq, lq_member), (gt, gt_member)) if member is None]
            yield Reject(group, stem, f"line {number}: {' and '.join(missing)} is missing")
        else:
            yield SourcePair(group, stem, lq_member, gt_member)


def _paths(line: str, where: str) -> tuple[PurePosixPath, PurePosixPath]:
    """Return the paths of a line, ground truth first."""
    paths = [PurePosixPath(part.strip()) for part in line.split(",")]
    if len(paths) != 2 or any(path.is_absolute() or not path.name or ".." in path.parts for path in paths):
        raise ValueError(f'{where} is {line!r}: a line must be "GT, LQ", two paths below the root with one comma between them.')
    for path, side, other in zip(paths, SIDES, reversed(SIDES)):
        folders = {folder.upper() for folder in path.parts[:-1]}
        if other in folders and side not in folders:
            raise ValueError(f"{where} is {line!r}: the ground truth (GT) comes first, the degraded image (LQ) second.")
    return paths[0], paths[1]


def _place(path: PurePosixPath, where: str) -> tuple[str, str]:
    """Return the group and the stem of a path."""
    folders = path.parts[:-1]
    place = next((place for place, folder in enumerate(folders) if is_group(folder)), None)
    if place is None:
        raise ValueError(f"{where}: no folder of {path} is named as a group, such as 08Haze or 09Lowlight_Haze.")
    below = 1 + max([place, *(side for side, folder in enumerate(folders) if folder.upper() in SIDES)])
    return folders[place], "/".join([*folders[below:], path.stem])


def _member(root: Path, path: PurePosixPath) -> Member | None:
    """Return the file at a path; None if it is missing."""
    try:
        found = os.stat(root / path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Member(str(path), str(path), found.st_size) if stat.S_ISREG(found.st_mode) else None


class Archives:
    """Archives in a folder, by group.

    Args:
        root: The folder.

    Raises:
        ValueError: Two archives have one group.
    """

    def __init__(self, root: Path) -> None:
        self._archives: dict[str, Path] = {}
        self.skipped: list[str] = []
        """Skipped archives, with the reason, and images in an archive that are in neither folder."""
        self._incomplete: dict[str, str] = {}
        volumes = (path for path in sorted(root.iterdir()) if path.suffix.lower().startswith(".z") and not path.name.startswith("."))
        self._find([path for path in volumes if path.is_file()])
        self.groups = sorted({*self._archives, *self._incomplete})

    def _find(self, files: list[Path]) -> None:
        totals = []
        for path in files:
            if path.suffix.lower() != ".zip":
                continue
            if path.stem.lower().endswith(_TOTAL):
                totals.append(path)
            elif not is_group(path.stem):
                self.skipped.append(f"{path.name} ({NO_GROUP})")
            elif path.stem in self._archives:
                raise ValueError(f"{self._archives[path.stem]} and {path.name} are both the archive of {path.stem}: keep one of them.")
            else:
                self._archives[path.stem] = path
        for path in files:
            stem, _ = volume_number(path.name) or ("", 0)
            if stem not in {*self._archives, *self._incomplete} and is_group(stem):
                self._incomplete[stem] = f"{path} is a volume of an archive whose last volume, {stem}.zip, is missing. Copy it there."
        for path in totals:
            group = path.stem[: -len(_TOTAL)]
            if group in self._archives:
                self.skipped.append(f"{path.name} (duplicate of {self._archives[group].name})")
            elif is_group(group):
                self._incomplete[group] = (
                    f"{path} cannot be opened: it is the concatenation of all volumes of {group}.zip, while an archive in "
                    f"volumes counts every offset from the start of a volume. Download {group}.z01, {group}.z02, … and {group}.zip instead."
                )
            else:
                self.skipped.append(f"{path.name} ({NO_GROUP})")

    def read_directory(self, group: str, files: dict[str, int]) -> Iterator[FoundImage]:
        """Yield the images of a group's archive from its central directory, and add its volumes with their bytes to ``files``.

        Raises:
            ValueError: A volume is missing or cut short, or no image is in ``GT/`` or ``LQ/``.
        """
        if group in self._incomplete:
            raise ValueError(self._incomplete[group])
        archive = self._archives[group]
        volumes = Volumes.of(archive)
        files.update((path.name, size) for path, size in zip(volumes.paths, volumes.sizes))
        source = archive.name
        found, outside = 0, []
        for entry in list_members(archive, volumes):
            parts = split_image_path(entry.name)
            if parts is None:
                continue
            if parts[0] == group and len(parts) > 1:
                del parts[0]
            side = parts[0].upper()
            if side not in SIDES or len(parts) < 2:
                outside.append(entry.name)
                continue
            found += 1
            member = Member(entry.name, source, entry.size, entry.offset, entry.compressed, entry.method, entry.crc)
            yield FoundImage(side, "/".join(parts[1:]), member, entry.obstacle)
        if not found:
            there = f"{len(outside)} elsewhere, such as {outside[0]}" if outside else "no other image"
            raise ValueError(f"{archive} holds no image in GT/ or LQ/, with or without {group}/ before it, and {there}.")
        if outside:
            self.skipped.append(f"{archive.name}: {len(outside)} images in neither GT/ nor LQ/, such as {outside[0]}")
