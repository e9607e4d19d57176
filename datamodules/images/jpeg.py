"""Segments of a JPEG that Pillow does not carry: comments and IPTC."""

from __future__ import annotations

import struct
from typing import Any

from PIL import Image

from datamodules.images.iptc import as_resource, iptc_in_resources

MAX_SEGMENT = 65533
"""Bytes that a segment holds."""

_COMMENT, _APP13 = b"\xff\xfe", b"\xff\xed"
_PHOTOSHOP = b"Photoshop 3.0\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
COMMENT = "Comment"
"""PNG's keyword of a text without a subject, which is what a JPEG's comment is."""


def jpeg_metadata(image: Image.Image, remarks: list[str]) -> dict[str, Any]:
    """Return comments and IPTC of an opened JPEG, by the names of a `Photo`'s fields."""
    segments: list[tuple[str, bytes]] = getattr(image, "applist", [])
    comments = tuple(_comment(content) for name, content in segments if name == "COM" and content.strip(b"\0"))
    resources = b"".join(
        content.removeprefix(_PHOTOSHOP) for name, content in segments if name == "APP13" and content.startswith(_PHOTOSHOP)
    )
    if any(name == "APP1" and content.startswith(_EXTENDED_XMP) for name, content in segments):
        remarks.append("its extended XMP, what exceeds 64 KB, is dropped")
    return {"text": comments, "iptc": iptc_in_resources(resources)}


def with_segments(data: bytes, text: tuple[tuple[str, str], ...], iptc: bytes | None) -> bytes:
    """Return a JPEG with IPTC and one comment for each text, before what is not a segment of an application."""
    made = [(_APP13, _PHOTOSHOP + as_resource(iptc))] if iptc else []
    made += [(_COMMENT, comment_bytes(key, value)) for key, value in text]
    place = 2
    while 0xE0 <= data[place + 1] <= 0xEF:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    segments = b"".join(marker + struct.pack(">H", len(content) + 2) + content for marker, content in made)
    return data[:place] + segments + data[place:]


def comment_bytes(key: str, value: str) -> bytes:
    """Return the comment that carries a text; one with a subject begins with it."""
    return (value if key == COMMENT else f"{key}: {value}").encode()


def iptc_segment_size(iptc: bytes) -> int:
    """Return the bytes of the segment that would hold IPTC records."""
    return len(_PHOTOSHOP) + len(as_resource(iptc))


def _comment(content: bytes) -> tuple[str, str]:
    content = content.rstrip(b"\0")
    try:
        return COMMENT, content.decode()
    except UnicodeDecodeError:
        return COMMENT, content.decode("latin-1")
