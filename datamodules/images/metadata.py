"""EXIF, XMP and the orientation they tell: once the pixels are upright, both must say so."""

from __future__ import annotations

import re
import struct

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
_PREFIX = b"Exif\0\0"
KEPT_OF_TIFF = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
"""Description, make, model, software, date, artist, copyright: a TIFF's other tags tell how its own pixels lie."""
_SUB_FOLDERS = (0x8769, 0x8825)
"""Exif and GPS."""
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8]")


def exif_of(image: Image.Image) -> bytes | None:
    """EXIF as after ``Exif\\0\\0`` with the orientation set to 1, byte for byte otherwise, but for a TIFF's, which is collected anew."""
    if image.format == "TIFF":
        found, kept = image.getexif(), Image.Exif()
        for tag in KEPT_OF_TIFF:
            if tag in found:
                kept[tag] = found[tag]
        for folder in _SUB_FOLDERS:
            if tags := dict(found.get_ifd(folder)):
                kept.get_ifd(folder).update(tags)
                kept[folder] = tags
        return kept.tobytes().removeprefix(_PREFIX) if len(kept) else None
    exif = image.info.get("exif")
    return set_upright(exif.removeprefix(_PREFIX)) if exif else None


def set_upright(exif: bytes) -> bytes:
    """The same EXIF with an orientation of 1 where it has one.

    Raises:
        struct.error: Its directory leads out of it.
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


def xmp_of(image: Image.Image) -> bytes | None:
    """The XMP packet with its orientation, if it has one, set to 1."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) and xmp else None


def orientation_of(image: Image.Image) -> int:
    """EXIF (or XMP) orientation 1..8; 1 where it is missing or not valid."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """``[H, W, ...]`` as it was meant to be seen, for an EXIF orientation 1..8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
