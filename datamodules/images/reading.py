"""Reading of a file as a `Photo`: 8 bits by Pillow, 16 bits by OpenCV, because Pillow would silently reduce them to 8."""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import TiffImageFile

from datamodules.images.formats import HEAD, ImageFormat, UnreadableImageError, format_of, jpeg_ends
from datamodules.images.photo import Photo, exif_of, orientation_of, turn_upright, xmp_of

MAX_PIXELS = 178_956_970
"""Pixels above which an image counts as a decompression bomb, the same limit as Pillow's."""

_MODES = {"L": 1, "LA": 1, "RGB": 3, "RGBA": 3}


def read_size(path: Path) -> tuple[int, int]:
    """Return width and height, without EXIF orientation, from an image's header; the pixels are not read.

    Raises:
        UnreadableImageError: The file is not a readable image.
    """
    _check_regular(path)
    with open(path, "rb") as file:
        kind = format_of(path, file.read(HEAD))
        file.seek(0)
        with _damage_is_named(kind), _open(file, kind) as image:
            return image.size


def read_photo(path: Path) -> Photo:
    """Read a photograph upright, with its profile and metadata.

    Gray stays gray; palettes, CMYK and YCbCr become RGB; alpha and 16 bits are kept.

    Raises:
        UnreadableImageError: The file is not an image that can be read to its last pixel.
    """
    _check_regular(path)
    data = path.read_bytes()
    kind = format_of(path, data[:HEAD])
    with _damage_is_named(kind):
        return _decode(data, kind)


def _check_regular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        what = "a folder" if path.is_dir() else "not a regular file"
        raise UnreadableImageError(f"it is {what}")


@contextmanager
def _damage_is_named(kind: ImageFormat) -> Iterator[None]:
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings are errors below, or do not matter here
            yield
    except (UnreadableImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"its header has more than {MAX_PIXELS / 1e6:.0f} megapixels: a decompression bomb") from error
    except Exception as error:  # damaged bytes make Pillow raise almost anything
        raise UnreadableImageError(f"its {kind.name} data is damaged or cut short ({type(error).__name__}: {_shown(error)})") from error


def _shown(error: Exception) -> str:
    """Return the message without the buffer addresses that Pillow adds."""
    return "Pillow cannot identify it" if "BytesIO object" in str(error) or "BufferedReader" in str(error) else str(error)


def _open(file: IO[bytes], kind: ImageFormat) -> Image.Image:
    return Image.open(file, formats=[kind.name])


def _decode(data: bytes, kind: ImageFormat) -> Photo:
    if kind.name == "PNG":
        with _open(io.BytesIO(data), kind) as image:
            image.verify()  # the checksum of every part, to the end, which loading does not reach
    if kind.name == "JPEG" and not jpeg_ends(data):
        raise UnreadableImageError("its JPEG data was cut short: the marker of its end is missing")
    with _open(io.BytesIO(data), kind) as image:
        remarks = []
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            remarks.append(f"only the first of its {frames} frames is kept")
        icc, dpi = image.info.get("icc_profile") or None, image.info.get("dpi")
        lossless = kind.name == "WEBP" and b"VP8L" in data[12:64]
        if _bits(image, data, kind) == 16:
            pixels = _decode_deep(data, kind)
        else:
            pixels, icc = _decode_plain(image, icc, remarks)
        orientation = _forgiven(orientation_of, image, "orientation", remarks) or 1
        exif, xmp = _forgiven(exif_of, image, "EXIF", remarks), _forgiven(xmp_of, image, "XMP", remarks)
        if kind.name == "HEIF":
            orientation = 1  # its reader has rotated it already
    pixels = turn_upright(pixels, orientation)
    colors = pixels.shape[2] - (pixels.shape[2] % 2 == 0)
    alpha = pixels[:, :, -1] if colors < pixels.shape[2] else None
    return Photo(pixels[:, :, :colors], alpha, kind, icc, exif, xmp, _usable(dpi), lossless, tuple(remarks))


def _bits(image: Image.Image, data: bytes, kind: ImageFormat) -> int:
    """Return the bits per channel, as far as they decide which library decodes."""
    if kind.name == "PNG":
        return data[24]
    if kind.name == "TIFF":
        assert isinstance(image, TiffImageFile), "opened as TIFF"
        bits = set(image.tag_v2.get(258, (1,)))
        if max(bits) > 16 or image.tag_v2.get(339, (1,))[0] == 3:
            raise UnreadableImageError("it has floating-point or 32-bit pixels; convert it to 16 bits per channel")
        return 16 if bits == {16} else 8
    return 8


def _decode_deep(data: bytes, kind: ImageFormat) -> np.ndarray:
    """Decode 16 bits per channel as ``[H, W, 1..4]`` with RGB first."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise UnreadableImageError(f"its 16-bit {kind.name} data is damaged, or of a kind that OpenCV cannot read; save it as RGB or gray")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.shape[2] not in (3, 4):
        raise UnreadableImageError(f"it has {pixels.shape[2]} channels of 16 bits; save it as RGB or gray")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _decode_plain(image: Image.Image, icc: bytes | None, remarks: list[str]) -> tuple[np.ndarray, bytes | None]:
    """Decode 8 bits per channel as ``[H, W, 1..4]``, with the matching profile."""
    image.load()
    if image.mode in ("F", "I", "LAB", "HSV") or image.mode.startswith("I;16"):
        raise UnreadableImageError(f"its pixels have Pillow's mode {image.mode}; convert it to RGB or gray")
    if image.mode == "CMYK":
        return _from_cmyk(image, icc, remarks), None
    transparent = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in _MODES or (transparent and image.mode in ("L", "RGB")):
        gray = image.mode in ("L", "La")
        image = image.convert(("LA" if gray else "RGBA") if transparent else "RGB")
    pixels = np.asarray(image)
    return (pixels[:, :, None] if pixels.ndim == 2 else pixels), icc


def _from_cmyk(image: Image.Image, icc: bytes | None, remarks: list[str]) -> np.ndarray:
    """Convert CMYK to sRGB, by its profile if there is one."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            return np.asarray(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"))
        except (ImageCms.PyCMSError, OSError) as error:
            remarks.append(f"its CMYK profile could not be used ({error}): converted without it")
    return np.asarray(image.convert("RGB"))


def _forgiven(read, image: Image.Image, name: str, remarks: list[str]):
    """Return ``read(image)``, or None with a remark: damaged metadata must not cost the picture."""
    try:
        return read(image)
    except Exception as error:  # damaged metadata make Pillow raise almost anything
        remarks.append(f"its {name} is damaged and dropped ({type(error).__name__})")
        return None


def _usable(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e5 and 0 < down < 1e5 else None
