"""PNG's chunks: the checked parts of a file, the metadata in them, and the parts that carry metadata in a written file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from datamodules.images.exif import PREFIX
from datamodules.images.iptc import iptc_in_resources
from datamodules.images.photo import Photo

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_INFLATED = 1 << 20
"""Bytes of a decompressed text or profile above which the chunk is dropped, the same limit as Pillow's."""

MAX_TEXT = 32 << 20
"""Bytes of all texts together above which further ones are dropped; readers limit this, too."""

_XMP_KEY = "XML:com.adobe.xmp"
_RAW_PROFILE = "Raw profile type "
_COLORIMETRY = (b"cHRM", b"gAMA", b"sRGB", b"cICP")
_SRGB_GAMMA = struct.pack(">I", 45455)
_SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
_GRAY, _RGB, _GRAY_ALPHA = 0, 2, 4
_METER = 0.0254
_END = b"IEND"

Chunk = tuple[bytes, bytes]
"""Name and content."""


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield every chunk to the end of the image.

    Raises:
        ValueError: A chunk is cut short or does not have its checksum, or the end is missing.
    """
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        name, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        if len(content) < size or place + 12 + size > len(data):
            break
        if zlib.crc32(name + content) != struct.unpack_from(">I", data, place + 8 + size)[0]:
            raise ValueError(f"broken checksum in {name!r}")
        yield name, content
        if name == _END:
            return
        place += 12 + size
    raise ValueError("the end is missing")


def metadata_parts(file: IO[bytes]) -> list[Chunk]:
    """Return the chunks with metadata, up to the end or to where the file is cut short; the pixels are not read, nor checksums compared."""
    found: list[Chunk] = []
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != _END:
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if name not in _METADATA:
            file.seek(size + 4, os.SEEK_CUR)
        elif len(content := file.read(size)) == size:
            found.append((name, content))
            file.seek(4, os.SEEK_CUR)
    return found


def chunk(name: bytes, content: bytes) -> bytes:
    """Return the bytes of a chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def without_metadata(parts: list[Chunk]) -> bytes:
    """Return a PNG of ``parts`` without text, profile and EXIF, which decoders limit."""
    return SIGNATURE + b"".join(chunk(name, content) for name, content in parts if name not in _METADATA)


def png_metadata(parts: list[Chunk], remarks: list[str]) -> dict[str, Any]:
    """Return profile, EXIF, XMP, IPTC, text, resolution and color space, by the names of a `Photo`'s fields.

    ImageMagick's raw profiles become the EXIF, XMP, IPTC or profile that they hold, if the file has no other. Damaged and oversized chunks
    are dropped with a remark.
    """
    found: dict[str, Any] = {}
    text: list[tuple[str, str]] = []
    raw: dict[str, bytes] = {}
    total = 0
    for name, content in parts:
        try:
            match name:
                case b"iCCP":
                    found["icc"] = _inflate(content.partition(b"\0")[2][1:])
                case b"eXIf":
                    found["exif"] = content.removeprefix(PREFIX)
                case b"tEXt" | b"zTXt" | b"iTXt":
                    key, value = _text(name, content)
                    if key == _XMP_KEY:
                        found["xmp"] = value.encode()
                    elif key.startswith(_RAW_PROFILE):
                        raw[key.removeprefix(_RAW_PROFILE).lower()] = _raw_profile(value)
                    else:
                        total += len(value)
                        if total > MAX_TEXT:
                            raise ValueError("all texts together have more than 32 MiB")
                        text.append((key, value))
        except (ValueError, IndexError, zlib.error) as error:
            key = content.partition(b"\0")[0][:79].decode("latin-1")
            label = f"{name.decode()} {key!r}" if name in _METADATA[:4] else name.decode()
            remarks.append(f"its chunk {label} is dropped: {error}")
    found |= {"text": tuple(text)} if text else {}
    known = dict(parts)
    if len(pixels := known.get(b"pHYs", b"")) == 9 and pixels[8] == 1:
        found["dpi"] = tuple(value * _METER for value in struct.unpack(">II", pixels[:8]))
    found["colorimetry"] = tuple((name, known[name]) for name in _COLORIMETRY if name in known)
    return {name: value for name, value in _from_raw(raw).items() if value} | {name: value for name, value in found.items() if value}


def num_frames(parts: list[Chunk]) -> int:
    """Return the number of an animation's frames; 1 for a still image."""
    return int.from_bytes(dict(parts).get(b"acTL", b"\0\0\0\1")[:4], "big")


def key_alpha(pixels: np.ndarray, parts: list[Chunk]) -> np.ndarray | None:
    """Return alpha ``[H, W]`` of pixels ``[H, W, 1 or 3]``: 0 where they have the transparent key color; None if the file has none.

    Not for palettes, whose entries have an alpha each.
    """
    known = dict(parts)
    bits, kind = known[b"IHDR"][8:10]
    key = known.get(b"tRNS")
    if key is None or kind not in (_GRAY, _RGB):
        return None
    most = np.iinfo(pixels.dtype).max
    scale = most // ((1 << bits) - 1)
    values = np.array(struct.unpack(f">{pixels.shape[2]}H", key[: 2 * pixels.shape[2]])) & ((1 << bits) - 1)
    return np.where((pixels == values * scale).all(axis=2), 0, most).astype(pixels.dtype)


def metadata_chunks(photo: Photo) -> list[Chunk]:
    """Return the chunks that carry a `Photo`'s metadata; only a profile is compressed, as it must be: readers limit what is."""
    made: list[Chunk] = list(photo.colorimetry)
    if photo.icc:
        made.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc)))
    if photo.dpi:
        made.append((b"pHYs", struct.pack(">IIB", *(round(value / _METER) for value in photo.dpi), 1)))
    if photo.exif:
        made.append((b"eXIf", photo.exif))
    if photo.xmp:
        made.append((b"iTXt", _XMP_KEY.encode() + b"\0\0\0\0\0" + photo.xmp))
    if photo.iptc:
        made.append((b"tEXt", _as_raw_profile("iptc", photo.iptc)))
    return made + [_text_chunk(key, value) for key, value in photo.text]


def inserted(data: bytes, made: list[Chunk]) -> bytes:
    """Return a PNG with chunks inserted after its header."""
    return data[:33] + b"".join(chunk(name, content) for name, content in made) + data[33:]


def _text(name: bytes, content: bytes) -> tuple[str, str]:
    key, _, rest = content.partition(b"\0")
    if name == b"tEXt":
        return key.decode("latin-1"), rest.decode("latin-1")
    if name == b"zTXt":
        return key.decode("latin-1"), _inflate(rest[1:]).decode("latin-1")
    compressed, rest = rest[0], rest[2:]
    value = rest.split(b"\0", 2)[2]
    return key.decode("latin-1"), (_inflate(value) if compressed else value).decode()


def _text_chunk(key: str, value: str) -> Chunk:
    name = key.encode("latin-1", "replace")[:79]
    try:
        return b"tEXt", name + b"\0" + value.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", name + b"\0\0\0\0\0" + value.encode()


def _inflate(content: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    value = unpacker.decompress(content, MAX_INFLATED + 1)
    if len(value) > MAX_INFLATED:
        raise ValueError("it has more than 1 MiB when decompressed")
    if not unpacker.eof:
        raise ValueError("it is cut short")
    return value


def _raw_profile(value: str) -> bytes:
    """Return the bytes of a raw profile: a name, a length and hexadecimal digits."""
    _, length, digits = value.split(None, 2)
    profile = bytes.fromhex(digits)
    if len(profile) != int(length):
        raise ValueError(f"it has {len(profile)} of {int(length)} bytes")
    return profile


def _as_raw_profile(name: str, profile: bytes) -> bytes:
    digits = profile.hex()
    lines = "\n".join(digits[place : place + 72] for place in range(0, len(digits), 72))
    return f"{_RAW_PROFILE}{name}\0\n{name}\n{len(profile):8}\n{lines}\n".encode()


def _from_raw(raw: dict[str, bytes]) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {"icc": raw.get("icc") or raw.get("icm"), "xmp": raw.get("xmp")}
    for name in ("app1", "exif"):
        if profile := raw.get(name):
            if profile.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                found["xmp"] = profile.partition(b"\0")[2]
            else:
                found["exif"] = profile.removeprefix(PREFIX)
    for name in ("8bim", "iptc"):
        if profile := raw.get(name):
            found["iptc"] = iptc_in_resources(profile) if profile.startswith(b"8BIM") else profile
    return found


def standard_colorimetry(parts: tuple[Chunk, ...]) -> bool:
    """Return true if a color space is sRGB, which every reader supposes where none is given."""
    known = dict(parts)
    if b"cICP" in known and known[b"cICP"][:2] != b"\1\x0d":
        return False
    if b"sRGB" in known or b"cICP" in known:
        return True
    return known.get(b"gAMA", _SRGB_GAMMA) == _SRGB_GAMMA and known.get(b"cHRM", _SRGB_PRIMARIES) == _SRGB_PRIMARIES
