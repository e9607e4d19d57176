"""Folders of tags (IFDs) of EXIF and TIFF, read and written byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

EXIF_FOLDER, GPS_FOLDER, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
ENTRY = 12
"""Bytes of a tag in a folder."""

_FOLDERS = (EXIF_FOLDER, GPS_FOLDER, _INTEROPERABILITY)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value of each type; BigTIFF's own types are not of EXIF."""
_LONG = 4


@dataclass(frozen=True)
class Tag:
    """A tag: its number, type, count and the bytes of its value; or the tags of the folder that it points to."""

    code: int
    kind: int
    count: int
    value: bytes
    folder: tuple[Tag, ...] = ()


def order_of(data: bytes) -> str:
    """Return the byte order of TIFF or EXIF data as struct's sign.

    Raises:
        ValueError: There is no header.
    """
    if data[:4] in (b"II*\0", b"II+\0"):
        return "<"
    if data[:4] in (b"MM\0*", b"MM\0+"):
        return ">"
    raise ValueError("no TIFF header")


def read_tags(data: bytes) -> tuple[Tag, ...]:
    """Return the tags of the first folder of TIFF, BigTIFF or EXIF data, with those of the folders EXIF, GPS and interoperability.

    Raises:
        ValueError: There is no header.
        struct.error: A tag reaches beyond the data.
    """
    order = order_of(data)
    big = b"+" in data[2:4]
    (start,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}I", data, 4)
    return _folder(data, order, big, start, set())


def folder_bytes(tags: Iterable[Tag], order: str, place: int) -> bytes:
    """Return a folder with its values and sub-folders, as the bytes that begin at ``place`` of a file."""
    tags = sorted(tags, key=lambda tag: tag.code)
    head, values = struct.pack(f"{order}H", len(tags)), b""
    end = place + 2 + ENTRY * len(tags) + 4
    for tag in tags:
        kind, count, value = tag.kind, tag.count, tag.value
        if tag.folder:
            kind, count, value = _LONG, 1, struct.pack(f"{order}I", end + len(values))
            values += folder_bytes(tag.folder, order, end + len(values))
        elif len(value) > 4:
            values, value = values + value, struct.pack(f"{order}I", end + len(values))
        values += b"\0" * (len(values) % 2)
        head += struct.pack(f"{order}HHI", tag.code, kind, count) + value.ljust(4, b"\0")
    return head + bytes(4) + values


def exif_of(tags: Iterable[Tag], order: str) -> bytes:
    """Return EXIF data, without its 6-byte prefix, of tags."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + folder_bytes(tags, order, 8)


def _folder(data: bytes, order: str, big: bool, start: int, seen: set[int]) -> tuple[Tag, ...]:
    if start in seen:
        raise ValueError("folders that contain themselves")
    seen.add(start)
    size, room = (20, 8) if big else (ENTRY, 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    first = start + (8 if big else 2)
    if first + count * size > len(data):
        raise ValueError("a folder that reaches beyond the end")
    found = []
    for place in range(first, first + count * size, size):
        code, kind, number = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, place)
        at, length = place + size - room, _SIZES.get(kind, 0) * number
        if code in _FOLDERS:
            (to,) = struct.unpack_from(f"{order}{'Q' if big and kind != _LONG else 'I'}", data, at)
            found.append(Tag(code, _LONG, 1, b"", _folder(data, order, big, to, seen)))
        elif length:
            if length > room:
                (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, at)
            if at + length > len(data):
                raise ValueError(f"a tag {code:#x} that reaches beyond the end")
            found.append(Tag(code, kind, number, data[at : at + length]))
    return tuple(tag for tag in found if tag.folder or tag.value)
