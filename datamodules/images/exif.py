"""EXIF and XMP: the orientation in them, which is set to upright, and the tags that a TIFF carries itself."""

from __future__ import annotations

import re
import struct

from PIL import Image

ORIENTATION = 0x0112
PREFIX = b"Exif\0\0"

KEPT_OF_TIFF = (
    0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F,
)  # fmt: skip
"""Document, description, make, model, software, date, artist, computer, ratings, copyright, and Windows' title, comment, author, keywords,
subject; a TIFF's other tags describe the layout of its own pixels."""

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))([1-8])")


def set_upright(exif: bytes) -> bytes:
    """Return EXIF data with orientation 1 if it has one.

    Raises:
        struct.error: Its directory points outside of it.
        ValueError: It has no header.
    """
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("no TIFF header")
    order = "<" if exif[:2] == b"II" else ">"
    changed = bytearray(exif)
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", exif, entry)
        if tag == ORIENTATION:
            struct.pack_into(f"{order}I" if kind == 4 else f"{order}H", changed, entry + 8, 1)
    return bytes(changed)


def orientation_in(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return the orientation 1..8 of EXIF data after its prefix, or where that has none, of an XMP packet; else, or if it is invalid, 1."""
    tags = Image.Exif()
    tags.load(exif or b"")
    value = tags.get(ORIENTATION)
    if value is None and (found := _XMP_ORIENTATION.search(xmp or b"")):
        value = int(found[2])
    return value if value is not None and value in range(1, 9) else 1


def xmp_upright(xmp: bytes) -> bytes:
    """Return an XMP packet with orientation 1 if it has one."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)
