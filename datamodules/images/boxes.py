"""Boxes of JPEG 2000 and JPEG XL files, with the metadata in them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

_SIGNATURES = (b"jP  ", b"JXL ")
_UUID_XMP = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes
_UUID_EXIF = b"JpgTiffExif->JP2"
_UUID_IPTC = uuid.UUID("33c7a4d2-b81d-4723-a0ba-f1a3e097ad38").bytes
_ICC_METHODS = (2, 3)
"""Restricted and any ICC profile."""


def boxes(data: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box from ``start`` on; nothing for a bare codestream.

    Raises:
        ValueError: A box reaches beyond the data.
    """
    if start == 0 and data[4:8] not in _SIGNATURES:
        return
    while start + 8 <= len(data):
        size, name, header = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = len(data) - start
        if size < header or start + size > len(data):
            raise ValueError(f"a box of {size} bytes reaches beyond the end")
        yield name, data[start + header : start + size]
        start += size


def box_metadata(data: bytes) -> dict[str, Any]:
    """Return EXIF (after its prefix), XMP, IPTC, and of JPEG 2000 the profile, by the names of a `Photo`'s fields.

    Raises:
        ValueError: A box is damaged.
    """
    found: dict[str, Any] = {}
    for name, content in boxes(data):
        if name == b"brob":
            import imagecodecs

            name, content = content[:4], bytes(imagecodecs.brotli_decode(content[4:]))
        if name == b"Exif":
            found["exif"] = content[4 + int.from_bytes(content[:4], "big") :].removeprefix(b"Exif\0\0")
        elif name == b"xml " and data[4:8] == b"JXL ":
            found["xmp"] = content
        elif name == b"uuid":
            found |= _of_uuid(content)
        elif name == b"jp2h":
            found |= _of_header(content)
    return {name: value for name, value in found.items() if value}


def has_end(data: bytes) -> bool:
    """Return true if a JPEG 2000 codestream ends as it must."""
    return data.rstrip(b"\0")[-2:] == b"\xff\xd9" or any(name == b"jp2c" and content[-2:] == b"\xff\xd9" for name, content in boxes(data))


def component_bits(data: bytes) -> list[int]:
    """Return the bits of each component of a JPEG 2000 codestream, negative if it is signed.

    Raises:
        ValueError: There is no codestream.
    """
    stream = data if data[:4] == b"\xff\x4f\xff\x51" else next((content for name, content in boxes(data) if name == b"jp2c"), b"")
    if stream[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("there is no codestream")
    count = int.from_bytes(stream[40:42], "big")
    depths = stream[42 : 42 + 3 * count : 3]
    return [-((depth & 127) + 1) if depth & 128 else depth + 1 for depth in depths]


def channel_kinds(data: bytes) -> dict[int, int]:
    """Return of JPEG 2000 each channel's kind, by its number: 0 color, 1 straight alpha, 2 associated alpha; empty if it is not stated."""
    for name, content in boxes(data):
        if name == b"jp2h":
            for inner, body in _inner(content):
                if inner == b"cdef":
                    rows = [body[place : place + 6] for place in range(2, len(body) - 5, 6)]
                    return {int.from_bytes(row[:2], "big"): int.from_bytes(row[2:4], "big") for row in rows}
    return {}


def color_space(data: bytes) -> int:
    """Return JPEG 2000's number of the color space (16 sRGB, 17 gray, 18 sYCC); 0 for a profile, or if it is not stated."""
    for name, content in boxes(data):
        if name == b"jp2h":
            for inner, body in _inner(content):
                if inner == b"colr":
                    return int.from_bytes(body[3:7], "big") if body[0] == 1 else 0
    return 0


def _inner(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    # A superbox has boxes and nothing else, so no signature is required.
    yield from ((name, inner) for name, inner in boxes(bytes(8) + content, 8))


def _of_uuid(content: bytes) -> dict[str, bytes]:
    known = {_UUID_XMP: "xmp", _UUID_EXIF: "exif", _UUID_IPTC: "iptc"}.get(content[:16])
    return {known: content[16:].removeprefix(b"Exif\0\0") if known == "exif" else content[16:]} if known else {}


def _of_header(content: bytes) -> dict[str, bytes]:
    for name, inner in _inner(content):
        if name == b"colr" and inner[0] in _ICC_METHODS:
            return {"icc": inner[3:]}
    return {}
