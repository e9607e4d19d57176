"""Encoding of a `Photo` as the bytes of a file, with its profile and metadata."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datamodules.images.formats import PNG, WRITTEN, ImageFormat
from datamodules.images.photo import KEPT_OF_TIFF, Photo

_DEEP = tuple(kind for kind in WRITTEN if kind.name in ("PNG", "TIFF"))
_OPAQUE = tuple(kind for kind in WRITTEN if kind.name in ("JPEG", "BMP"))
_XMP_KEY = "XML:com.adobe.xmp"


def encode_photo(photo: Photo, pixels: np.ndarray, kind: ImageFormat = PNG) -> bytes:
    """Encode ``pixels``, of the photo's shape and type, in the format ``kind`` with the photo's metadata.

    JPEG is written at quality 95 with full chroma, AVIF at 90, WebP lossless if the photo was. Properties that the format cannot
    hold are dropped; `lost_in` lists them.
    """
    if kind not in _DEEP and pixels.dtype == np.uint16:
        pixels, alpha = np.round(pixels / 257).astype(np.uint8), photo.alpha
        photo = dataclasses.replace(photo, alpha=None if alpha is None else np.round(alpha / 257).astype(np.uint8))
    if kind in _OPAQUE:
        photo = dataclasses.replace(photo, alpha=None)
    together = pixels if photo.alpha is None else np.dstack([pixels, photo.alpha])
    if together.dtype == np.uint16:
        return _deep_tiff(photo, together) if kind.name == "TIFF" else _deep_png(photo, together)
    image = Image.fromarray(together[:, :, 0] if together.shape[2] == 1 else together)
    carried = {"icc_profile": photo.icc, "exif": photo.exif and b"Exif\0\0" + photo.exif, "dpi": photo.dpi, "xmp": photo.xmp}
    carried = {name: value for name, value in carried.items() if value}
    out = io.BytesIO()
    image.save(out, format=kind.name, **_settings(photo, kind, carried))
    return out.getvalue()


def lost_in(photo: Photo, kind: ImageFormat) -> tuple[str, ...]:
    """Describe the properties of ``photo`` that the format ``kind`` cannot hold."""
    lost = []
    if kind not in _DEEP and photo.pixels.dtype == np.uint16:
        lost.append(f"{kind.name} holds 8 bits per channel, of its 16")
    if kind in _OPAQUE and photo.alpha is not None:
        lost.append(f"{kind.name} does not hold its transparency")
    if kind.name == "BMP" and (photo.icc or photo.exif or photo.xmp):
        lost.append("BMP does not hold its profile and metadata")
    if kind.name == "TIFF" and photo.pixels.dtype == np.uint16 and photo.exif:
        lost.append("of its EXIF only make, model, date, artist and copyright are kept in a 16-bit TIFF")
    return tuple(lost)


def _settings(photo: Photo, kind: ImageFormat, carried: dict) -> dict:
    match kind.name:
        case "JPEG":
            return carried | {"quality": 95, "subsampling": 0, "optimize": True}
        case "PNG":
            info = PngInfo()
            if xmp := carried.pop("xmp", None):
                info.add_itxt(_XMP_KEY, xmp.decode("utf-8", "replace"))
            return carried | {"pnginfo": info}
        case "WEBP":
            return carried | {"lossless": photo.lossless, "quality": 80 if photo.lossless else 95, "exact": True}
        case "TIFF":
            # Pillow's own writer supports EXIF's sub-folders; libtiff's, which can compress, does not.
            return carried if photo.exif else carried | {"compression": "tiff_adobe_deflate"}
        case "BMP":
            return {name: value for name, value in carried.items() if name == "dpi"}
        case _:
            return carried | {"quality": 90}


def _deep_png(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode pixels by OpenCV, and insert the metadata after the first chunk."""
    if pixels.shape[2] == 2:  # OpenCV has no gray with alpha
        pixels = np.dstack([pixels[:, :, :1]] * 3 + [pixels[:, :, 1:]])
    if pixels.shape[2] > 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, encoded = cv2.imencode(".png", pixels)
    assert done
    data = encoded.tobytes()
    chunks = []
    if photo.icc:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc)))
    if photo.dpi:
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in photo.dpi), 1)))
    if photo.exif:
        chunks.append(_chunk(b"eXIf", photo.exif))
    if photo.xmp:
        chunks.append(_chunk(b"iTXt", _XMP_KEY.encode() + b"\0\0\0\0\0" + photo.xmp))
    return data[:33] + b"".join(chunks) + data[33:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _deep_tiff(photo: Photo, pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    settings = {"photometric": "minisblack" if pixels.shape[2] < 3 else "rgb", "compression": "adobe_deflate", "metadata": None}
    if pixels.shape[2] % 2 == 0:
        settings["extrasamples"] = ["unassalpha"]
        settings["planarconfig"] = "contig"
    if photo.icc:
        settings["iccprofile"] = photo.icc
    if photo.dpi:
        settings |= {"resolution": photo.dpi, "resolutionunit": "INCH"}
    tags = [(700, "B", len(photo.xmp), photo.xmp, True)] if photo.xmp else []
    if photo.exif:
        tags_of = Image.Exif()
        tags_of.load(b"Exif\0\0" + photo.exif)
        tags += [(tag, "s", 0, tags_of[tag], True) for tag in KEPT_OF_TIFF if isinstance(tags_of.get(tag), str) and tags_of[tag].isascii()]
    settings["extratags"] = tags
    tifffile.imwrite(out, pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, **settings)
    return out.getvalue()
