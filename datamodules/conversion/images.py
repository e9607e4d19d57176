"""Looking at an encoded image: what it is, how large it is when it stands upright, and whether it is whole."""

import io
import re
import struct
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from datamodules.conversion.problems import BadImageError

_FORMATS = {
    "png": ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    "jpg": ("JPEG", re.compile(rb"\xff\xd8\xff")),  # also what Pillow calls MPO: a JPEG with more behind it
    "bmp": ("BMP", re.compile(rb"BM")),
    "tif": ("TIFF", re.compile(rb"II\*\0|MM\0\*")),
    "webp": ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
}
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A marker of a segment or of the end: not a stuffed byte, a restart or a filling."""
_END_OF_IMAGE = 0xD9
_ORIENTATION = 0x0112
_TURNED = range(5, 9)
"""Values of the EXIF orientation at which width and height change places."""


@dataclass(frozen=True)
class ImageFacts:
    """An image's true suffix, its width and height in pixels once its EXIF orientation (1..8) is applied, and that orientation."""

    suffix: str
    width: int
    height: int
    orientation: int


def look_at(data: bytes, check: str) -> ImageFacts:
    """Tell what an encoded image is.

    Args:
        data: The file.
        check: ``decode`` to read it to its last pixel, ``header`` to believe its header. No decoder notices every wrong byte in the middle
            of a JPEG or TIFF, which have no checksums; an archive's checksum does.

    Raises:
        BadImageError: It is of no known format, or damaged or cut short as far as was looked.
    """
    suffix = suffix_of(data)
    try:
        with warnings.catch_warnings(action="ignore"):  # about what will be an error, or does not matter here
            return _look(data, suffix, check)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow raise almost anything; they cost the pair, not the conversion
        raise BadImageError(f"its {suffix} data is damaged ({type(error).__name__}: {_without_addresses(error)})") from error


def suffix_of(data: bytes) -> str:
    """Return the suffix that an image's first bytes tell: png, jpg, bmp, tif or webp.

    Raises:
        BadImageError: They are of none of these.
    """
    for suffix, (_, pattern) in _FORMATS.items():
        if pattern.match(data):
            return suffix
    raise BadImageError(f"it begins with {data[:8].hex(' ') or 'nothing'}, as no PNG, JPEG, BMP, TIFF or WebP does")


def decode_upright(data: bytes) -> np.ndarray:
    """Decode an image as training does, to uint8 ``[H, W, 3]`` in OpenCV's order of channels, upright.

    Raises:
        BadImageError: OpenCV cannot.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise BadImageError(f"OpenCV cannot decode it ({error.err})") from error
    if image is None:
        raise BadImageError("OpenCV cannot decode it")
    return image


def _look(data: bytes, suffix: str, check: str) -> ImageFacts:
    # Two decoders, because each is lax in another place: OpenCV's releases up to 4 fill up a JPEG that was cut short, Pillow does not miss
    # the end of a PNG, and neither misses that of a JPEG whose rest is zeros, as an interrupted copy leaves it. What OpenCV makes of an
    # orientation outside of a JPEG differs between its releases, so it is asked.
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


def jpeg_ends(data: bytes) -> bool:
    """Whether an end marker follows the image data; one inside a segment before, as that of a thumbnail, does not count."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker = data[found.end() - 1]
        if marker == _END_OF_IMAGE:
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False


def _orientation(image: Image.Image, suffix: str) -> int:
    """EXIF orientation 1..8; 1 where there is none or it is not valid, as for OpenCV."""
    if suffix == "tif":
        exif = image.getexif()
    else:
        # not getexif() here: it also believes XMP, which OpenCV does not read, and decodes a PNG that has no EXIF to look for it at the end
        exif = Image.Exif()
        try:
            exif.load(image.info.get("exif", b""))
        except (SyntaxError, struct.error):
            return 1
    value = exif.get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _without_addresses(error: Exception) -> str:
    """An error's message without what differs from run to run."""
    return re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the data", str(error))
