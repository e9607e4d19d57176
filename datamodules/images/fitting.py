"""Limits of each format: what of a `Photo` it holds, and how large an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from datamodules.images.formats import AVIF, BMP, JPEG, PNG, TIFF, WEBP, ImageFormat
from datamodules.images.jpeg import MAX_SEGMENT, comment_bytes, iptc_segment_size
from datamodules.images.photo import Photo
from datamodules.images.png import standard_colorimetry

DEEP = (PNG, TIFF)
"""Formats of 16 bits per channel."""
OPAQUE = (JPEG, BMP)
"""Formats without transparency."""

_LARGEST_SIDE = {JPEG: 65_500, WEBP: 16_383, AVIF: 32_768, BMP: 2**31 - 1}
"""Pixels; libjpeg's, WebP's own, the largest that libavif reads, BMP's own."""
_XMP_OVERHEAD = len(b"http://ns.adobe.com/xap/1.0/\0")
_EXIF_OVERHEAD = len(b"Exif\0\0")
_MAX_JPEG_PROFILE = 255 * (MAX_SEGMENT - 14)
"""Bytes of a profile in at most 255 segments."""


class TooLargeImageError(ValueError):
    """An image with more pixels on a side than the format of its result holds."""


def check_size(width: int, height: int, kind: ImageFormat) -> None:
    """Check that a format holds an image of this size.

    Raises:
        TooLargeImageError: It does not; the message gives the limit and a remedy.
    """
    limit = _LARGEST_SIDE.get(kind, 2**31 - 1)
    if max(width, height) > limit:
        raise TooLargeImageError(f"it has {width} x {height} pixels, and {kind.name} at most {limit:,} on a side; write it as PNG or TIFF")


def lost_in(photo: Photo, kind: ImageFormat) -> tuple[str, ...]:
    """Describe the properties of ``photo`` that the format ``kind`` cannot hold."""
    return fitted(photo, kind)[1]


def fitted(photo: Photo, kind: ImageFormat) -> tuple[Photo, tuple[str, ...]]:
    """Return the photo with only what the format ``kind`` holds, and a description of each property that it does not hold."""
    lost: list[str] = []
    if kind not in DEEP and photo.pixels.dtype == np.uint16:
        lost.append(f"{kind.name} holds 8 bits per channel, of its 16")
        pixels, alpha = to_8_bits(photo.pixels), None if photo.alpha is None else to_8_bits(photo.alpha)
        photo = dataclasses.replace(photo, pixels=pixels, alpha=alpha)
    if kind in OPAQUE and photo.alpha is not None:
        lost.append(f"{kind.name} does not hold its transparency")
        photo = dataclasses.replace(photo, alpha=None)
    if kind is BMP and (photo.icc or photo.exif or photo.xmp):
        lost.append("BMP does not hold its profile and metadata")
        photo = dataclasses.replace(photo, icc=None, exif=None, xmp=None)
    if kind is JPEG:
        photo, dropped = _fitted_in_segments(photo)
        lost += dropped
    if kind not in (PNG, JPEG) and photo.text:
        names = ", ".join(dict.fromkeys(key for key, _ in photo.text))
        lost.append(f"{kind.name} does not hold its text ({names})")
        photo = dataclasses.replace(photo, text=())
    if kind not in (PNG, JPEG, TIFF) and photo.iptc:
        lost.append(f"{kind.name} does not hold its IPTC")
        photo = dataclasses.replace(photo, iptc=None)
    if kind is not PNG and photo.colorimetry:
        if not photo.icc and not standard_colorimetry(photo.colorimetry):
            lost.append(f"{kind.name} does not hold its gamma and primaries")
        photo = dataclasses.replace(photo, colorimetry=())
    return photo, tuple(lost)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return uint16 as uint8, rounded."""
    return np.round(values / 257).astype(np.uint8)


def _fitted_in_segments(photo: Photo) -> tuple[Photo, list[str]]:
    """Return the photo without what exceeds a JPEG's segments, and a description of it."""
    lost: list[str] = []
    limits: dict[str, tuple[Callable[[bytes], int], int]] = {
        "exif": (lambda value: len(value) + _EXIF_OVERHEAD, MAX_SEGMENT),
        "xmp": (lambda value: len(value) + _XMP_OVERHEAD, MAX_SEGMENT),
        "iptc": (iptc_segment_size, MAX_SEGMENT),
        "icc": (len, _MAX_JPEG_PROFILE),
    }
    names = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC", "icc": "profile"}
    for field, (size, limit) in limits.items():
        value = getattr(photo, field)
        if value and size(value) > limit:
            lost.append(f"its {names[field]} of {len(value):,} bytes does not fit into JPEG, which holds {limit:,}")
            photo = dataclasses.replace(photo, **{field: None})
    kept = tuple((key, value) for key, value in photo.text if len(comment_bytes(key, value)) <= MAX_SEGMENT)
    for key in [key for key, value in photo.text if (key, value) not in kept]:
        lost.append(f"its text {key} does not fit into JPEG, which holds {MAX_SEGMENT:,} bytes")
    return dataclasses.replace(photo, text=kept), lost
