"""Reading of a file as a `Photo`: 8 bits by Pillow; 16 bits, which Pillow would silently reduce to 8, and TIFF by imagecodecs."""

from __future__ import annotations

import io
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from datamodules.images import png, tiff
from datamodules.images.boxes import box_metadata, channel_kinds, color_space, component_bits, has_end
from datamodules.images.exif import PREFIX, orientation_in, set_upright, xmp_upright
from datamodules.images.formats import (
    AVIF,
    GIF,
    HEAD,
    HEIF,
    JPEG,
    JPEG2000,
    JXL,
    PNG,
    TIFF,
    WEBP,
    ImageFormat,
    UnreadableImageError,
    format_of,
    jpeg_ends,
)  # fmt: skip
from datamodules.images.jpeg import COMMENT, jpeg_metadata
from datamodules.images.photo import SIDEWAYS, Photo, turn_upright

MAX_PIXELS = 178_956_970
"""Pixels above which an image counts as a decompression bomb, the same limit as Pillow's."""

_MODES = {"L": 1, "LA": 1, "RGB": 3, "RGBA": 3}
_JP2_RGB_OR_GRAY = (0, 16, 17)
"""Color spaces: by a profile, sRGB, gray."""

_TURNED_BY_READERS = (HEIF, JXL)
"""Formats whose readers return upright pixels and sizes."""

_DEEP_MEDIA = re.compile(rb"pixi\0{4}[\x01-\x04]([\x09-\x10])")
"""Property of an ISO media file's image: more than 8 bits in its first channel."""
_MEDIA_HEADER = 1 << 16
"""Bytes in which its properties are."""

_Value = TypeVar("_Value")


def read_size(path: Path) -> tuple[int, int]:
    """Return width and height, without EXIF orientation, from an image's header; the pixels are not read.

    Raises:
        UnreadableImageError: The file is not a readable image.
    """
    _check_regular(path)
    with open(path, "rb") as file:
        kind = format_of(path, file.read(HEAD))
        file.seek(0)
        with _damage_is_named(kind):
            if kind is TIFF:
                size = tiff.read_header(file).size
                _check_no_bomb(size)
                return size
            if kind is PNG:  # its text may exceed Pillow's limits
                return _png_size(file.read(33))
            with _open(file, kind) as image:
                return image.size


def read_upright_size(path: Path) -> tuple[int, int]:
    """Return width and height of the photograph that `read_photo` would return; the pixels are not read.

    Raises:
        UnreadableImageError: The file is not a readable image.
    """
    width, height = read_size(path)
    with warnings.catch_warnings(action="ignore"):
        orientation = _forgiven(lambda: _orientation_of(path), "orientation", [])
    return (width, height) if (orientation or 1) < SIDEWAYS else (height, width)


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
        if kind is TIFF:
            return _read_tiff(data)
        if kind is PNG:
            return _read_png(data)
        return _read_other(data, kind)


def _orientation_of(path: Path) -> int:
    """Return the orientation 1..8 by which `read_photo` turns an image."""
    with open(path, "rb") as file:
        kind = format_of(path, file.read(HEAD))
        file.seek(0)
        if kind in _TURNED_BY_READERS:
            return 1
        if kind is TIFF:
            return tiff.read_header(file).orientation
        if kind is PNG:
            metadata = png.png_metadata(png.metadata_parts(file), [])
        else:
            with _open(file, kind) as image:
                metadata = {"exif": _bytes_in(image, "exif"), "xmp": _bytes_in(image, "xmp")}
    if kind is JPEG2000:
        metadata |= _forgiven(lambda: box_metadata(path.read_bytes()), "comment or IPTC", []) or {}
    return orientation_in((metadata.get("exif") or b"").removeprefix(PREFIX), metadata.get("xmp"))


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
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise UnreadableImageError(f"its {kind.name} data is damaged or cut short ({type(error).__name__}: {_shown(error)})") from error


def _shown(error: Exception) -> str:
    """Return the message without the buffer addresses that Pillow adds."""
    return "Pillow cannot identify it" if "BytesIO object" in str(error) or "BufferedReader" in str(error) else str(error)


def _open(file: IO[bytes], kind: ImageFormat) -> Image.Image:
    return Image.open(file, formats=[kind.name])


def _check_no_bomb(size: tuple[int, int]) -> None:
    if 0 in size:
        raise UnreadableImageError(f"its header has {size[0]} x {size[1]} pixels: it is damaged")
    if size[0] * size[1] > MAX_PIXELS:
        raise Image.DecompressionBombError


def _png_size(head: bytes) -> tuple[int, int]:
    with _open(io.BytesIO(head + png.chunk(b"IDAT", b"")), PNG) as image:
        return image.size


def _read_tiff(data: bytes) -> Photo:
    header = tiff.read_header(io.BytesIO(data))
    _check_no_bomb(header.size)
    remarks = _frames_remark(header.frames)
    metadata = _forgiven(lambda: tiff.tiff_metadata(data), "profile or XMP", remarks) or {}
    metadata["exif"] = _forgiven(lambda: tiff.tiff_exif(data), "EXIF", remarks)
    if header.by_tags:
        remarks += tiff.tiff_remarks(data)
        pixels, orientation = tiff.decode_tiff(data), header.orientation
    else:
        try:
            image = _open(io.BytesIO(data), TIFF)
        except UnidentifiedImageError as error:
            raise header.not_supported from error
        with image:
            pixels, metadata["icc"] = _decode_plain(image, metadata.get("icc"), remarks)  # Pillow turns a TIFF upright itself
            orientation = 1
    return _photo(pixels, orientation, TIFF, metadata, remarks)


def _read_png(data: bytes) -> Photo:
    parts = list(png.chunks(data))
    _png_size(data[:33])
    remarks = _frames_remark(png.num_frames(parts))
    metadata = png.png_metadata(parts, remarks)
    clean = png.without_metadata(parts)
    if data[24] == 16:
        import imagecodecs  # only deep images need it

        # Transparency by a key color is that of every other depth; imagecodecs would make it a channel.
        pixels = imagecodecs.png_decode(png.without_metadata([part for part in parts if part[0] != b"tRNS"]))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
    else:
        with _open(io.BytesIO(clean), PNG) as image:
            keyed = image.mode != "P" and image.info.pop("transparency", None) is not None
            pixels, _ = _decode_plain(image, None, remarks, keyed=keyed)
    alpha = png.key_alpha(pixels, parts)
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    orientation = _forgiven(lambda: orientation_in(metadata.get("exif"), metadata.get("xmp")), "orientation", remarks) or 1
    return _photo(pixels, orientation, PNG, metadata, remarks)


def _read_other(data: bytes, kind: ImageFormat) -> Photo:
    if kind is JPEG and not jpeg_ends(data):
        raise UnreadableImageError("its JPEG data was cut short: the marker of its end is missing")
    if kind is JPEG2000 and not has_end(data):
        raise UnreadableImageError("its JPEG 2000 data was cut short: the marker of its end is missing")
    with _open(io.BytesIO(data), kind) as image:
        remarks = _frames_remark(getattr(image, "n_frames", 1) if image.format != "MPO" else 1)
        metadata: dict[str, Any] = {"icc": image.info.get("icc_profile"), "dpi": image.info.get("dpi")}
        metadata |= {"exif": _bytes_in(image, "exif"), "xmp": _bytes_in(image, "xmp")}
        metadata["lossless"] = kind is WEBP and _is_lossless_webp(data)
        metadata |= _forgiven(lambda: _own_metadata(image, data, kind, remarks), "comment or IPTC", remarks) or {}
        if metadata["exif"]:
            metadata["exif"] = metadata["exif"].removeprefix(PREFIX)
        if kind in (AVIF, HEIF) and (deep := _DEEP_MEDIA.search(data, 0, _MEDIA_HEADER)):
            remarks.append(f"its {deep[1][0]} bits per channel are reduced to 8")
        if kind is JXL or (kind is JPEG2000 and max(map(abs, component_bits(data))) > 8):
            pixels = _decode_deep(data, kind)
        else:
            pixels, metadata["icc"] = _decode_plain(image, metadata["icc"], remarks)
        orientation = 1
        if kind not in _TURNED_BY_READERS:
            orientation = _forgiven(lambda: orientation_in(metadata["exif"], metadata["xmp"]), "orientation", remarks) or 1
    return _photo(pixels, orientation, kind, metadata, remarks)


def _own_metadata(image: Image.Image, data: bytes, kind: ImageFormat, remarks: list[str]) -> dict[str, Any]:
    """Return the metadata that Pillow does not give."""
    if kind is JPEG:
        return jpeg_metadata(image, remarks)
    if kind is GIF and (comment := image.info.get("comment")):
        return {"text": ((COMMENT, comment.decode("utf-8", "replace")),)}
    return box_metadata(data) if kind in (JPEG2000, JXL) else {}


def _bytes_in(image: Image.Image, name: str) -> bytes | None:
    value = image.info.get(name)
    if isinstance(value, str):
        value = value.encode()
    return value if isinstance(value, bytes) and value else None


def _photo(pixels: np.ndarray, orientation: int, kind: ImageFormat, metadata: dict[str, Any], remarks: list[str]) -> Photo:
    """Return the photo of pixels ``[H, W, 1..4]``, upright."""
    pixels = turn_upright(pixels, orientation)
    colors = pixels.shape[2] - (pixels.shape[2] % 2 == 0)
    alpha = pixels[:, :, -1] if colors < pixels.shape[2] else None
    exif, xmp = metadata.get("exif"), metadata.get("xmp")
    metadata["exif"] = _forgiven(lambda: set_upright(exif), "EXIF", remarks) if exif else None
    metadata["xmp"] = xmp_upright(xmp) if xmp else None
    metadata["dpi"], metadata["icc"] = _usable(metadata.get("dpi")), metadata.get("icc") or None
    return Photo(pixels[:, :, :colors], alpha, kind, remarks=tuple(remarks), **metadata)


def _frames_remark(frames: int) -> list[str]:
    return [f"only the first of its {frames} frames is kept"] if frames > 1 else []


def _decode_deep(data: bytes, kind: ImageFormat) -> np.ndarray:
    """Decode JPEG XL, and JPEG 2000 of 16 bits, as ``[H, W, 1..4]``."""
    import imagecodecs

    if kind is JXL:
        pixels = imagecodecs.jpegxl_decode(data)
        if pixels.dtype not in (np.uint8, np.uint16):
            raise UnreadableImageError("it has floating-point pixels; convert it to 16 bits per channel")
        if pixels.ndim == 4:  # an animation
            pixels = pixels[0]
    else:
        bits, kinds = component_bits(data), channel_kinds(data)
        if set(bits) != {16}:
            raise UnreadableImageError(f"its channels have {' and '.join(map(str, sorted(set(bits))))} bits; save it with 8 or 16")
        if color_space(data) not in _JP2_RGB_OR_GRAY or any(value not in (0, 1) for value in kinds.values()):
            raise UnreadableImageError("its 16-bit channels are not those of RGB or gray with straight alpha; save it so")
        pixels = imagecodecs.jpeg2k_decode(data)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] > 4:
        raise UnreadableImageError(f"it has {pixels.shape[2]} channels; save it as RGB or gray")
    return pixels


def _decode_plain(image: Image.Image, icc: bytes | None, remarks: list[str], *, keyed: bool = False) -> tuple[np.ndarray, bytes | None]:
    """Decode 8 bits per channel as ``[H, W, 1..4]``, with the matching profile; with ``keyed``, leave transparency to the caller."""
    image.load()
    if image.mode in ("F", "I", "LAB", "HSV") or image.mode.startswith("I;16"):
        raise UnreadableImageError(f"its pixels have Pillow's mode {image.mode}; convert it to RGB or gray")
    if image.mode == "CMYK":
        return _from_cmyk(image, icc, remarks), None
    transparent = not keyed and ("transparency" in image.info or image.mode in ("PA", "La", "RGBa"))
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
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None  # only in place
            return np.asarray(converted)
        except (ImageCms.PyCMSError, OSError) as error:
            remarks.append(f"its CMYK profile could not be used ({error}): converted without it")
    return np.asarray(image.convert("RGB"))


def _is_lossless_webp(data: bytes) -> bool:
    """Return true if the first chunk of pixels is a lossless one."""
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name == b"ANMF":
            place += 8 + 16  # its own chunks follow its header
            continue
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        place += 8 + size + size % 2
    return False


def _forgiven(read: Callable[[], _Value], name: str, remarks: list[str]) -> _Value | None:
    """Return ``read()``, or None with a remark: damaged metadata must not cost the picture."""
    try:
        return read()
    except Exception as error:  # damaged metadata make Pillow raise almost anything
        remarks.append(f"its {name} is damaged and dropped ({type(error).__name__})")
        return None


def _usable(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e5 and 0 < down < 1e5 else None
