"""Directory of a zip archive in one or more volumes, which Python's zipfile cannot open.

The format is PKWARE's APPNOTE 6.3. In a spanned archive every offset counts from the start of a volume, so the concatenated volumes are not
a valid archive. Zip64 records hold numbers above 32 bits.
"""

import bisect
import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_MOST_COMMENT = 0xFFFF
_LOCAL_SIZE = 30
_METHODS = {1: "shrunk", 6: "imploded", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz", 98: "ppmd"}
_NUMBERED = re.compile(r"(?P<stem>.+)\.z(?P<number>\d+)", re.IGNORECASE | re.DOTALL)


def volume_number(name: str) -> tuple[str, int] | None:
    """Return ``("08Haze", 1)`` for ``08Haze.z01``, in any case; None for any name but a volume's before the last."""
    found = _NUMBERED.fullmatch(name)
    return (found["stem"], int(found["number"])) if found else None


def volumes_of(archive: Path) -> list[Path]:
    """Return the volumes of ``archive`` in order: ``08Haze.z01``, ``08Haze.z02``, …, and last ``08Haze.zip`` itself.

    Raises:
        ValueError: A volume before another one is missing, one exists twice, or ``archive`` itself is missing; the message names it.
    """
    if not archive.is_file():
        raise ValueError(f"{archive} is missing: it is the last volume, which holds the archive's directory. Copy it to the others.")
    numbered: dict[int, Path] = {}
    for path in sorted(archive.parent.iterdir()):
        stem, number = volume_number(path.name) or ("", 0)
        if stem == archive.stem:
            if number in numbered:
                raise ValueError(f"{numbered[number]} and {path.name} are both volume {number} of {archive.name}: keep one of them.")
            numbered[number] = path
    if missing := sorted(set(range(1, len(numbered) + 1)) - set(numbered)):
        names = ", ".join(volume_name(archive, number) for number in missing)
        raise ValueError(f"{archive} lacks the volume {names} beside it, while {numbered[max(numbered)].name} is there. Copy it there too.")
    return [*(numbered[number] for number in sorted(numbered)), archive]


def volume_name(archive: Path, number: int) -> str:
    """Return the usual name of an archive's ``number``-th volume, counted from 1: ``08Haze.z01``."""
    return f"{archive.stem}.z{number:02d}"


class Volumes:
    """Volumes of known sizes as one sequence of bytes.

    Args:
        paths: The volumes in order.
        sizes: Their bytes.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        self.paths = tuple(paths)
        self.sizes = tuple(sizes)
        self.starts = tuple(itertools.accumulate(self.sizes, initial=0))[:-1]
        self.total = sum(self.sizes)

    @classmethod
    def of(cls, archive: Path) -> "Volumes":
        """Return the volumes of an archive with their present sizes.

        Raises:
            ValueError: As in `volumes_of`.
        """
        paths = volumes_of(archive)
        return cls(paths, [path.stat().st_size for path in paths])

    def volume_at(self, offset: int) -> Path:
        """Return the volume that holds byte ``offset`` of the sequence."""
        return self.paths[bisect.bisect_right(self.starts, offset) - 1]

    def pieces(self, offset: int, length: int) -> Iterator[tuple[Path, int, int]]:
        """Yield path, offset and length of the pieces of ``length`` bytes from byte ``offset`` on, which must exist."""
        number = bisect.bisect_right(self.starts, offset) - 1
        while length:
            within = offset - self.starts[number]
            part = min(length, self.sizes[number] - within)
            yield self.paths[number], within, part
            offset, length, number = offset + part, length - part, number + 1


class ZipEntry(NamedTuple):
    """A stored file in the central directory."""

    name: str
    size: int
    """Bytes of the file itself."""
    offset: int
    """Offset of its local header, over all volumes one after the other."""
    compressed: int
    """Bytes as stored."""
    method: int
    """0 for stored, 8 for deflated."""
    crc: int
    encrypted: bool

    @property
    def obstacle(self) -> str | None:
        """Reason why the file cannot be read, such as "encrypted"; None if it can."""
        if self.encrypted:
            return "encrypted"
        if self.method not in (0, 8):
            return f"compressed by method {self.method} ({_METHODS.get(self.method, 'unknown')}); stored and deflated files are read"
        return None


@dataclass(frozen=True)
class _Directory:
    """Place of the central directory, over all volumes, and its number of entries."""

    start: int
    size: int
    entries: int


def open_archive(archive: Path) -> Volumes:
    """Return the volumes of an archive after comparing their number with its end record.

    Raises:
        ValueError: A volume is missing or superfluous, or the archive has no end record; the message names the volume.
    """
    volumes = Volumes.of(archive)
    _find_directory(volumes)
    return volumes


def list_members(archive: Path, volumes: Volumes | None = None) -> list[ZipEntry]:
    """Return the files of an archive in the order of its central directory, without directories.

    Unreadable files are listed too: see `ZipEntry.obstacle`.

    Args:
        archive: The last volume, ``….zip``, also of an archive with one volume.
        volumes: Its volumes if they are open already.

    Raises:
        ValueError: A volume is missing or cut short, or the directory is damaged; the message names the volume.
    """
    volumes = volumes or Volumes.of(archive)
    directory = _find_directory(volumes)
    entries = _parse(_read(volumes, directory.start, directory.size), volumes)
    if len(entries) != directory.entries:
        raise _damaged(archive, f"its directory has {len(entries)} entries and its end record {directory.entries}")
    _refuse_lost_bytes(entries, volumes, directory.start)
    return [entry for entry in entries if not entry.name.endswith("/")]


def _find_directory(volumes: Volumes) -> _Directory:
    """Read the end records and compare the volumes with them."""
    archive = volumes.paths[-1]
    end_size = min(_END.size + _MOST_COMMENT, volumes.sizes[-1])
    tail = _read(volumes, volumes.total - end_size, end_size)
    place = tail.rfind(b"PK\x05\x06")
    while place >= 0 and not _closes(tail, place):
        place = tail.rfind(b"PK\x05\x06", 0, place)
    if place < 0:
        raise _damaged(archive, "it has no end record: it is not a zip archive, or it was cut short")
    _, disk, directory_disk, _, count, size, offset, _ = _END.unpack_from(tail, place)
    if disk != 0xFFFF:
        _refuse_other_count(volumes, disk + 1)
    end = volumes.total - end_size + place
    at_locator = end - _LOCATOR.size
    locator = _read(volumes, at_locator, _LOCATOR.size) if at_locator >= 0 else b""
    if locator[:4] == b"PK\x06\x07":
        _, end64_disk, end64_offset, disks = _LOCATOR.unpack(locator)
        if disk == 0xFFFF:
            _refuse_other_count(volumes, disks)
        end = _global_offset(volumes, end64_disk, end64_offset)
        record = _read(volumes, end, _END64.size) if end + _END64.size <= at_locator else b""
        if record[:4] != b"PK\x06\x06":
            raise _damaged(archive, "its Zip64 end record is not at its recorded place")
        _, _, _, _, _, directory_disk, _, count, size, offset = _END64.unpack(record)
    start = _global_offset(volumes, directory_disk, offset)
    if start + size > end:
        raise _damaged(archive, f"its directory of {size} bytes does not fit before its end record")
    return _Directory(start, size, count)


def _closes(tail: bytes, place: int) -> bool:
    """Return true if the end record at ``place`` reaches the end of the file: its signature may also occur in a comment."""
    return place + _END.size <= len(tail) and place + _END.size + _END.unpack_from(tail, place)[-1] == len(tail)


def _parse(directory: bytes, volumes: Volumes) -> list[ZipEntry]:
    """Parse a central directory."""
    entries = []
    place = 0
    while place < len(directory):
        if place + _ENTRY.size > len(directory) or not directory.startswith(b"PK\x01\x02", place):
            raise _damaged(volumes.paths[-1], f"entry {len(entries)} of its directory is not one")
        _, _, _, flags, method, _, _, crc, compressed, size, name_size, extra_size, comment_size, disk, _, _, offset = _ENTRY.unpack_from(
            directory, place
        )
        name_end = place + _ENTRY.size + name_size
        # bit 11 means UTF-8; else the name is in PKZIP's original code page
        name = directory[place + _ENTRY.size : name_end].decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
        if size == 0xFFFFFFFF or compressed == 0xFFFFFFFF or offset == 0xFFFFFFFF or disk == 0xFFFF:
            extra = directory[name_end : name_end + extra_size]
            try:
                size, compressed, offset, disk = _widened(extra, size, compressed, offset, disk)
            except struct.error as error:
                raise _damaged(volumes.paths[-1], f"its directory lacks the Zip64 fields of entry {len(entries)}") from error
        entries.append(ZipEntry(name, size, _global_offset(volumes, disk, offset), compressed, method, crc, bool(flags & 1)))
        place = name_end + extra_size + comment_size
    return entries


def _widened(extra: bytes, size: int, compressed: int, offset: int, disk: int) -> tuple[int, int, int, int]:
    """Replace the fields with all bits set by the Zip64 extra field, which holds only these, in this order."""
    place = 0
    kind = length = 0
    while kind != 1:
        place += length
        kind, length = struct.unpack_from("<2H", extra, place)
        place += 4
    fields = extra[place : place + length]
    used = 0
    if size == 0xFFFFFFFF:
        (size,), used = struct.unpack_from("<Q", fields, used), used + 8
    if compressed == 0xFFFFFFFF:
        (compressed,), used = struct.unpack_from("<Q", fields, used), used + 8
    if offset == 0xFFFFFFFF:
        (offset,), used = struct.unpack_from("<Q", fields, used), used + 8
    if disk == 0xFFFF:
        (disk,) = struct.unpack_from("<I", fields, used)
    return size, compressed, offset, disk


def _refuse_lost_bytes(entries: list[ZipEntry], volumes: Volumes, directory: int) -> None:
    """Refuse members that overlap the next one: bytes are missing from a volume between them."""
    ordered = sorted(entries, key=lambda entry: entry.offset)
    for entry, following in zip(ordered, [*(following.offset for following in ordered[1:]), directory]):
        end = entry.offset + _LOCAL_SIZE + entry.compressed  # a lower bound, without its name and extra field
        if end > following:
            volume = volumes.volume_at(entry.offset)
            raise ValueError(
                f"{volume} is cut short: it has {volume.stat().st_size} bytes, and {entry.name} in it reaches {end - following} bytes "
                "into what comes next. Copy it again."
            )


def _global_offset(volumes: Volumes, disk: int, offset: int) -> int:
    if disk >= len(volumes.paths):
        raise _damaged(volumes.paths[-1], f"it names volume {disk + 1} of {len(volumes.paths)}")
    if offset >= volumes.sizes[disk]:
        path, size = volumes.paths[disk], volumes.sizes[disk]
        raise ValueError(f"{path} is cut short: it has {size} bytes, and the archive's directory names byte {offset} of it. Copy it again.")
    return volumes.starts[disk] + offset


def _refuse_other_count(volumes: Volumes, count: int) -> None:
    """Refuse an archive that was written with another number of volumes."""
    archive, found = volumes.paths[-1], len(volumes.paths)
    if found < count:
        missing = ", ".join(volume_name(archive, number) for number in range(found, count))
        raise ValueError(
            f"{archive} was written in {count} volumes, and beside it {missing} is missing. Copy it there; "
            "a file that joins all volumes cannot be read."
        )
    if found > count:
        extra = ", ".join(path.name for path in volumes.paths[count - 1 : -1])
        raise ValueError(f"{archive} was written in {count} volumes, and {extra} beside it is none of them. Move it away.")


def _read(volumes: Volumes, offset: int, length: int) -> bytes:
    parts = []
    for path, within, part in volumes.pieces(offset, length):
        with open(path, "rb") as file:
            file.seek(within)
            parts.append(file.read(part))
    return b"".join(parts)


def _damaged(archive: Path, what: str) -> ValueError:
    return ValueError(f"{archive} cannot be listed: {what}. Copy it again.")
