"""The archives that FoundIR is released as: one per group, often in volumes, with ``GT/`` and ``LQ/`` inside."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.sources.group_names import NO_GROUP, is_group
from datamodules.sources.members import Member
from datamodules.sources.pairing import SIDES, FoundImage, split_image_path
from datamodules.sources.spanned_zip import list_members
from datamodules.sources.volumes import Volumes, volume_number

_TOTAL = "_total"


class Archives:
    """The archives in a folder, by group.

    Args:
        root: The folder.

    Raises:
        ValueError: Two archives are of one group.
    """

    def __init__(self, root: Path) -> None:
        self._archives: dict[str, Path] = {}
        self.skipped: list[str] = []
        """Archives that are left aside, with the reason, and images in an archive that are in neither folder."""
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
                    f"{path} cannot be opened: it is made of all volumes of {group}.zip put one after the other, while an archive in "
                    f"volumes counts every offset from its own volume. Fetch {group}.z01, {group}.z02, … and {group}.zip instead."
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
