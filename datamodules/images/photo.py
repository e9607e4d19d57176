"""A decoded photograph with its metadata: EXIF, XMP, and the orientation in both, which is set to upright."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datamodules.images.formats import ImageFormat

ORIENTATION = 0x0112
_PREFIX = b"Exif\0\0"

KEPT_OF_TIFF = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
"""Description, make, model, software, date, artist, copyright; a TIFF's other tags describe the layout of its own pixels."""

_SUB_FOLDERS = (0x8769, 0x8825)
"""EXIF and GPS."""

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[2-8]")


@dataclass(frozen=True)
class Photo:
    """An upright photograph.

    Attributes:
        pixels: uint8 or uint16, ``[H, W, 1]`` if it is gray, else RGB ``[H, W, 3]``.
        alpha: ``[H, W]`` of the same type, or None.
        format: Format of the file.
        icc: Color profile, or None.
        exif: EXIF after its 6-byte prefix, with orientation 1, or None.
        xmp: XMP packet, or None.
        dpi: Horizontal and vertical resolution, or None.
        lossless: True for a lossless WebP.
        remarks: Descriptions of what could not be kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    format: ImageFormat
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    lossless: bool = False
    remarks: tuple[str, ...] = ()


def exif_of(image: Image.Image) -> bytes | None:
    """Return the EXIF data after its 6-byte prefix with orientation 1, otherwise byte for byte; a TIFF's is collected anew."""
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


def xmp_of(image: Image.Image) -> bytes | None:
    """Return the XMP packet with orientation 1 if it has one."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) and xmp else None


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF (or XMP) orientation 1..8; 1 if it is missing or invalid."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels ``[H, W, ...]`` upright, for an EXIF orientation 1..8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
