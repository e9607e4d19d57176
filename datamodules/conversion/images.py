"""Inspection of an encoded image: its format, its size when upright, and its integrity."""

import io
import re
import struct
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from datamodules.images.formats import jpeg_ends

_FORMATS = {
    "png": ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    "jpg": ("JPEG", re.compile(rb"\xff\xd8\xff")),  # also what Pillow calls MPO: a JPEG followed by more images
    "bmp": ("BMP", re.compile(rb"BM")),
    "tif": ("TIFF", re.compile(rb"II\*\0|MM\0\*")),
    "webp": ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
}
_ORIENTATION = 0x0112
_TURNED = range(5, 9)
"""EXIF orientations that swap width and height."""


class BadImageError(ValueError):
    """An image, or a pair of images, that cannot be used; the message is the recorded reason."""


@dataclass(frozen=True)
class ImageFacts:
    """True suffix of an image, width and height in pixels with the EXIF orientation (1..8) applied, and that orientation."""

    suffix: str
    width: int
    height: int
    orientation: int


def inspect_image(data: bytes, check: str) -> ImageFacts:
    """Return the format, size and orientation of an encoded image.

    Args:
        data: The file.
        check: ``decode`` reads it to its last pixel, ``header`` uses only its header. No decoder detects every wrong byte in the middle of
            a JPEG or TIFF, which have no checksums; an archive's checksum detects them.

    Raises:
        BadImageError: The format is unknown, or the data is damaged or cut short as far as it was read.
    """
    suffix = suffix_of(data)
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings are errors below, or do not matter here
            return _look(data, suffix, check)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow raise almost anything; only this pair is rejected
        raise BadImageError(f"its {suffix} data is damaged ({type(error).__name__}: {_without_addresses(error)})") from error


def suffix_of(data: bytes) -> str:
    """Return the suffix for an image's first bytes: png, jpg, bmp, tif or webp.

    Raises:
        BadImageError: The format is unknown.
    """
    for suffix, (_, pattern) in _FORMATS.items():
        if pattern.match(data):
            return suffix
    raise BadImageError(f"it begins with {data[:8].hex(' ') or 'nothing'}, unlike any PNG, JPEG, BMP, TIFF or WebP")


def decode_upright(data: bytes) -> np.ndarray:
    """Decode an image as training does: uint8 ``[H, W, 3]``, BGR, upright.

    Raises:
        BadImageError: OpenCV cannot decode it.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise BadImageError(f"OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise BadImageError("OpenCV cannot decode it")
    return image


def _look(data: bytes, suffix: str, check: str) -> ImageFacts:
    # Two decoders, because each is lax in a different place: OpenCV up to version 4 fills up a truncated JPEG, Pillow accepts a PNG
    # without its end, and both accept a JPEG whose rest is zeros, as an interrupted copy leaves it. OpenCV's releases treat the
    # orientation of formats other than JPEG differently, so its result is measured.
    decode = check == "decode"
    orientation = 1
    with Image.open(io.BytesIO(data), formats=[_FORMATS[suffix][0]]) as image:
        width, height = image.size
        orientation = _orientation(image, suffix)
        if decode and suffix == "png":
            image.verify()  # the checksum of every part, to the end
        elif decode:
            image.load()
    if decode and suffix == "jpg" and not jpeg_ends(data):
        raise BadImageError("its jpg data was cut short: the marker of its end is missing")
    if suffix == "jpg":
        if orientation in _TURNED:
            width, height = height, width
    elif decode or orientation != 1:
        height, width = decode_upright(data).shape[:2]
    return ImageFacts(suffix, width, height, orientation)


def _orientation(image: Image.Image, suffix: str) -> int:
    """Return the EXIF orientation 1..8, and 1 where it is missing or invalid, as OpenCV does."""
    if suffix == "tif":
        exif = image.getexif()
    else:
        # not getexif() here: it also reads XMP, which OpenCV does not, and decodes a PNG without EXIF to search for it at the end
        exif = Image.Exif()
        try:
            exif.load(image.info.get("exif", b""))
        except (SyntaxError, struct.error):
            return 1
    value = exif.get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _without_addresses(error: Exception) -> str:
    """Return an error's message without memory addresses, which differ between runs."""
    return re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the data", str(error))
