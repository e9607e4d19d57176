"""A decoded photograph with its metadata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.images.formats import ImageFormat


@dataclass(frozen=True)
class Photo:
    """An upright photograph.

    Attributes:
        pixels: uint8 or uint16, ``[H, W, 1]`` if it is gray, else RGB ``[H, W, 3]``.
        alpha: ``[H, W]`` of the same type, straight, or None.
        format: Format of the file.
        icc: Color profile, or None.
        exif: EXIF after its 6-byte prefix, with orientation 1, or None.
        xmp: XMP packet, or None.
        dpi: Horizontal and vertical resolution, or None.
        lossless: True for a lossless WebP.
        remarks: Descriptions of what could not be kept.
        text: Pairs of keyword and text, as in PNG; a JPEG's comment has the keyword Comment.
        iptc: IPTC records, or None.
        colorimetry: Name and content of a PNG's chunks cHRM, gAMA, sRGB and cICP.
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
    text: tuple[tuple[str, str], ...] = ()
    iptc: bytes | None = None
    colorimetry: tuple[tuple[bytes, bytes], ...] = ()


SIDEWAYS = 5
"""EXIF orientation from which on width and height are exchanged."""


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels ``[H, W, ...]`` upright, for an EXIF orientation 1..8."""
    if orientation >= SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
