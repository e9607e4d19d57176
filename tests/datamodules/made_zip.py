"""A small writer of zip archives in volumes of any size, cut wherever the size says: also inside a header or a directory."""

import bisect
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SPLIT_MARK = b"PK\x07\x08"
_END_SIZE = 22
_ALL_ONES = 0xFFFFFFFF


@dataclass(frozen=True)
class MadeZip:
    """Where everything of a written archive lies, counted over all its volumes."""

    volumes: tuple[Path, ...]
    cuts: tuple[int, ...]
    """Starts of the volumes, without the first."""
    spans: Mapping[str, tuple[int, int]]
    """First byte and the one after the last of ``header of X``, ``data of X``, ``directory``, ``zip64 end``, ``zip64 locator``, ``end``."""

    def straddling(self) -> set[str]:
        """The records that a cut goes through."""
        return {name for name, (start, stop) in self.spans.items() if any(start < cut < stop for cut in self.cuts)}

    def place(self, name: str, byte: int = 0) -> tuple[Path, int]:
        """The volume and the offset in it of a record's byte."""
        position = self.spans[name][0] + byte
        disk = bisect.bisect_right(self.cuts, position)
        return self.volumes[disk], position - (0, *self.cuts)[disk]


def write_spanned_zip(
    archive: Path,
    members: Mapping[str, bytes],
    volumes: int | Iterable[int] | None = None,
    *,
    deflate: bool = True,
    zip64: bool = False,
    descriptors: bool = False,
) -> MadeZip:
    """Write ``archive`` and, before it, its volumes ``.z01``, ``.z02``, …; a name that ends with ``/`` is a directory.

    Args:
        archive: Path of the last volume, ``….zip``.
        members: Bytes by name.
        volumes: Bytes of each volume, or where to cut; None writes one volume. The end record is kept whole, as the format demands.
        deflate: Compress the members, else store them.
        zip64: Put every size, offset and volume number into Zip64 records.
        descriptors: Leave sizes and checksum out of the local headers and write them behind the data.
    """
    parts: list[bytes] = [_SPLIT_MARK] if volumes is not None else []
    spans: dict[str, tuple[int, int]] = {}

    def append(name: str, part: bytes) -> int:
        start = sum(map(len, parts))
        parts.append(part)
        spans[name] = (start, start + len(part))
        return start

    entries = []
    for name, data in members.items():
        method = 8 if deflate and data else 0
        stored = _deflated(data) if method else data
        crc, sizes, flags = zlib.crc32(data), (len(data), len(stored)), 8 if descriptors else 0
        start = append(f"header of {name}", _local_header(name, method, flags, crc, sizes, zip64))
        append(f"data of {name}", stored)
        if descriptors:
            wide = "<4sIQQ" if zip64 else "<4sIII"
            append(f"descriptor of {name}", struct.pack(wide, b"PK\x07\x08", crc, sizes[1], sizes[0]))
        entries.append((name, method, flags, crc, sizes, start))
    directory_size = sum(len(_entry(*entry, 0, zip64)) for entry in entries)
    directory = sum(map(len, parts))
    end = directory + directory_size + (56 + 20 if zip64 else 0)
    cuts = _cuts(volumes, end)

    def on_disk(position: int) -> tuple[int, int]:
        disk = bisect.bisect_right(cuts, position)
        return disk, position - (0, *cuts)[disk]

    records = []
    for *fields, start in entries:
        disk, offset = on_disk(start)
        records.append(_entry(*fields, offset, disk, zip64))
    append("directory", b"".join(records))
    disk, offset = on_disk(directory)
    here = sum(on_disk(directory + sum(map(len, records[:number])))[0] == len(cuts) for number in range(len(records)))
    count = len(records)
    if zip64:
        counts = (here, count, directory_size, offset)
        end64 = append("zip64 end", struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, len(cuts), disk, *counts))
        append("zip64 locator", struct.pack("<4sIQI", b"PK\x06\x07", *on_disk(end64), len(cuts) + 1))
        append("end", struct.pack("<4s4H2IH", b"PK\x05\x06", *[0xFFFF] * 4, _ALL_ONES, _ALL_ONES, 0))
    else:
        append("end", struct.pack("<4s4H2IH", b"PK\x05\x06", len(cuts), disk, here, count, directory_size, offset, 0))
    return MadeZip(_write_volumes(archive, b"".join(parts), cuts), tuple(cuts), spans)


def _cuts(volumes: int | Iterable[int] | None, end: int) -> list[int]:
    """The starts of all volumes but the first; one inside the end record moves before it."""
    if volumes is None:
        return []
    wanted = range(volumes, end + _END_SIZE, volumes) if isinstance(volumes, int) else volumes
    return sorted({min(cut, end) for cut in wanted})


def _write_volumes(archive: Path, data: bytes, cuts: list[int]) -> tuple[Path, ...]:
    archive.parent.mkdir(parents=True, exist_ok=True)
    paths = [archive.with_suffix(f".z{number:02d}") for number in range(1, len(cuts) + 1)] + [archive]
    for path, start, stop in zip(paths, [0, *cuts], [*cuts, len(data)]):
        path.write_bytes(data[start:stop])
    return tuple(paths)


def _deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    return deflater.compress(data) + deflater.flush()


def _local_header(name: str, method: int, flags: int, crc: int, sizes: tuple[int, int], zip64: bool) -> bytes:
    if flags & 8:
        crc, sizes = 0, (0, 0)
    extra = b"UT\x09\x00\x03" + bytes(8)  # longer than the central one, as zip 3.0 writes it
    if zip64:
        extra += struct.pack("<2H2Q", 1, 16, *sizes)
    size, compressed = (_ALL_ONES, _ALL_ONES) if zip64 else sizes
    raw = name.encode()
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", 45, flags, method, 0, 33, crc, compressed, size, len(raw), len(extra)) + raw + extra


def _entry(name: str, method: int, flags: int, crc: int, sizes: tuple[int, int], offset: int, disk: int, zip64: bool) -> bytes:
    size, compressed = sizes
    extra = b"UT\x05\x00\x03" + bytes(4)
    if zip64:
        extra += struct.pack("<2H3QI", 1, 28, size, compressed, offset, disk)
        size = compressed = offset = _ALL_ONES
        disk = 0xFFFF
    raw = name.encode()
    fixed = (b"PK\x01\x02", 0x031E, 45, flags, method, 0, 33, crc, compressed, size, len(raw), len(extra), 0, disk, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", *fixed) + raw + extra


def bytes_of(size: str) -> int:
    """``"128k"`` in bytes."""
    count, unit = re.fullmatch(r"(\d+)([km]?)", size).groups()
    return int(count) << {"": 0, "k": 10, "m": 20}[unit]
