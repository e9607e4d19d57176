"""Stored files, each a separate file or a member of a zip archive, and their reader."""

import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.sources.spanned_zip import Volumes, open_archive

MOST_DESCRIPTORS = 64
"""Volumes that a reader keeps open at once."""

_LOCAL = struct.Struct("<4s5H3I2H")
_USUAL_EXTRA = 64  # zip 3.0 writes 28 bytes, 48 with Zip64


class CorruptMemberError(ValueError):
    """The stored bytes are damaged; the message names the member and the damage."""


class SourceGoneError(ValueError):
    """A listed file or volume is missing, unreadable or of another size; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Member:
    """One stored file: a separate file, or a member of a (spanned) zip archive."""

    name: str
    """Path inside the source, with "/", for messages and records: ``08Haze/GT/0347236.jpg``."""
    source: str
    """Path below the root of the source, with "/": the file itself, or the last volume of its archive, ``08Haze.zip``."""
    size: int
    """Bytes of the file itself, uncompressed."""
    offset: int = 0
    """Zip: offset of the local header, over all volumes one after the other."""
    compressed: int = -1
    """Zip: bytes as stored; -1 for a separate file."""
    method: int = 0
    """Zip: 0 for stored, 8 for deflated."""
    crc: int | None = None
    """Zip: CRC-32 of the file itself, from the central directory."""

    def to_list(self) -> list[Any]:
        """Return the fields as a short list for JSON; an empty name stands for the source's name."""
        name = "" if self.name == self.source else self.name
        zipped = [] if self.compressed < 0 else [self.offset, self.compressed, self.method, self.crc]
        return [name, self.source, self.size, *zipped]

    @classmethod
    def from_list(cls, fields: list[Any]) -> "Member":
        """Return the member of a `to_list`."""
        name, source, *rest = fields
        return cls(name or source, source, *rest)


class MemberReader:
    """Reader of members, each with one positioned read (one per volume if a member spans several).

    Args:
        root: The folder that the members' sources are relative to.
        files: Bytes of the volumes when they were listed, by path below ``root`` (`Listing.files`). A volume that became shorter shifts all
            following bytes; without this check the members would count as corrupt. None skips the check.
    """

    def __init__(self, root: Path, files: Mapping[str, int] | None = None) -> None:
        self._root = Path(root)
        self._files = files
        self._archives: dict[str, Volumes] = {}
        self._descriptors: OrderedDict[Path, int] = OrderedDict()

    def __enter__(self) -> "MemberReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the volumes."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read(self, member: Member) -> bytes:
        """Return the checked bytes of a stored file.

        Raises:
            CorruptMemberError: The header, size or checksum of a zip member differs from the central directory, or its deflated data is
                damaged.
            SourceGoneError: A file or volume is missing, cannot be read or has another size.
        """
        return self._read_file(member) if member.compressed < 0 else self._read_zipped(member)

    def _read_file(self, member: Member) -> bytes:
        path = self._root / member.source
        descriptor = _open(path)
        try:
            size = os.fstat(descriptor).st_size
            if size != member.size:
                raise _gone(path, f"has {size} bytes and had {member.size} when it was listed")
            return _read_at(descriptor, path, 0, size)
        finally:
            os.close(descriptor)

    def _read_zipped(self, member: Member) -> bytes:
        volumes = self._volumes(member.source)
        guess = _LOCAL.size + len(member.name.encode()) + _USUAL_EXTRA + member.compressed
        if member.offset + _LOCAL.size + member.compressed > volumes.total:
            raise _gone(volumes.paths[-1], f"ends before {member.name}")
        span = self._read_span(volumes, member.offset, min(guess, volumes.total - member.offset))
        signature, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(span)
        if signature != b"PK\x03\x04":
            raise _corrupt(member, "its local header is not one")
        if method != member.method or flags & 1:
            raise _corrupt(member, f"its local header has method {method} and flags {flags:#x}, the directory method {member.method}")
        start = _LOCAL.size + name_size + extra_size
        stop = start + member.compressed
        if stop > len(span):
            if member.offset + stop > volumes.total:
                raise _corrupt(member, "its local header leads beyond the archive")
            span += self._read_span(volumes, member.offset + len(span), stop - len(span))
        return _checked(member, _inflated(member, span[start:stop]) if method else span[start:stop])

    def _volumes(self, source: str) -> Volumes:
        """Return the volumes of an archive, compared with the listing on first use."""
        if source not in self._archives:
            archive = self._root / source
            try:
                volumes = open_archive(archive)
            except OSError as error:
                raise _gone(archive, f"cannot be read ({error.strerror})") from error
            except ValueError as error:
                raise SourceGoneError(str(error)) from error
            for path, size in zip(volumes.paths, volumes.sizes):
                listed = size if self._files is None else self._files.get(path.relative_to(self._root).as_posix())
                if size != listed:
                    was = "was not there" if listed is None else f"had {listed}"
                    raise _gone(path, f"has {size} bytes and {was} when it was listed")
            self._archives[source] = volumes
        return self._archives[source]

    def _read_span(self, volumes: Volumes, offset: int, length: int) -> bytes:
        parts = [_read_at(self._descriptor(path), path, within, part) for path, within, part in volumes.pieces(offset, length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _descriptor(self, path: Path) -> int:
        """Return the descriptor of a volume; the least recently used one is closed at the limit."""
        if path in self._descriptors:
            self._descriptors.move_to_end(path)
        else:
            if len(self._descriptors) >= MOST_DESCRIPTORS:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[path] = _open(path)
        return self._descriptors[path]


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _gone(path, f"cannot be opened ({error.strerror})") from error


def _read_at(descriptor: int, path: Path, offset: int, length: int) -> bytes:
    """Read ``length`` bytes; one read returns fewer only at the end of the file, or above 2 GiB."""
    parts = []
    while length:
        try:
            part = os.pread(descriptor, length, offset)
        except OSError as error:
            raise _gone(path, f"cannot be read at byte {offset} ({error.strerror})") from error
        if not part:
            raise _gone(path, f"ends at byte {offset}, {length} bytes before what was listed in it")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _inflated(member: Member, data: bytes) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        found = inflater.decompress(data, member.size + 1)  # one byte more detects excess data without unpacking a bomb
    except zlib.error as error:
        raise _corrupt(member, f"its deflated data is damaged ({error})") from error
    if not inflater.eof and len(found) <= member.size:
        raise _corrupt(member, f"its deflated data ends early, after {len(found)} of {member.size} bytes")
    return found


def _checked(member: Member, data: bytes) -> bytes:
    if len(data) != member.size:
        more = "more than " if len(data) > member.size else f"{len(data)} bytes instead of "
        raise _corrupt(member, f"it holds {more}{member.size} bytes")
    if (crc := zlib.crc32(data)) != member.crc:
        raise _corrupt(member, f"its checksum is {crc:08x} and should be {member.crc:08x}")
    return data


def _corrupt(member: Member, what: str) -> CorruptMemberError:
    return CorruptMemberError(f"{member.name} in {member.source} is corrupt: {what}")


def _gone(path: Path, what: str) -> SourceGoneError:
    return SourceGoneError(f"{path} {what}. Bring the file back as it was, or list the source anew.")
