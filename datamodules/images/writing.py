"""Encoding of a `Photo` as the bytes of a file, with its profile and metadata."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from datamodules.images.exif import PREFIX
from datamodules.images.fitting import fitted
from datamodules.images.formats import BMP, JPEG, PNG, TIFF, WEBP, ImageFormat
from datamodules.images.jpeg import with_segments
from datamodules.images.photo import Photo
from datamodules.images.png import inserted, metadata_chunks
from datamodules.images.tiff_writing import encode_tiff

QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}
"""Quality of formats that lose, unless another is given."""


def encode_photo(photo: Photo, pixels: np.ndarray, kind: ImageFormat = PNG, *, quality: int | None = None) -> bytes:
    """Encode ``pixels``, of the photo's shape and type, in the format ``kind`` with the photo's metadata.

    JPEG is written with full chroma. Properties that the format cannot hold are dropped; `lost_in` lists them.

    Args:
        photo: The photo whose alpha and metadata to write.
        pixels: uint8 or uint16 ``[H, W, 1 or 3]``.
        kind: Format to write.
        quality: Quality of JPEG, WebP and AVIF, 1..100; None for `QUALITY`, and for a lossless WebP if the photo was one.
    """
    photo, _ = fitted(dataclasses.replace(photo, pixels=pixels), kind)
    pixels = photo.pixels
    together = pixels if photo.alpha is None else np.dstack([pixels, photo.alpha])
    if kind is TIFF:
        return encode_tiff(photo, together)
    if kind is PNG and together.dtype == np.uint16:
        import imagecodecs  # only 16-bit images need it

        return inserted(bytes(imagecodecs.png_encode(together)), metadata_chunks(photo))
    image = Image.fromarray(together[:, :, 0] if together.shape[2] == 1 else together)
    if kind is PNG:
        return inserted(_saved(image, PNG, {}), metadata_chunks(photo))
    carried = {"icc_profile": photo.icc, "exif": photo.exif and PREFIX + photo.exif, "dpi": photo.dpi, "xmp": photo.xmp}
    data = _saved(image, kind, {name: value for name, value in carried.items() if value} | _settings(photo, kind, quality))
    return with_segments(data, photo.text, photo.iptc) if kind is JPEG else data


def _settings(photo: Photo, kind: ImageFormat, quality: int | None) -> dict[str, Any]:
    if kind is BMP:
        return {}
    chosen = {"quality": QUALITY[kind.name] if quality is None else quality}
    if kind is JPEG:
        return chosen | {"subsampling": 0, "optimize": True}
    if kind is WEBP:
        lossless = photo.lossless and quality is None
        return {"lossless": lossless, "exact": True} | ({"quality": 80} if lossless else chosen)
    return chosen


def _saved(image: Image.Image, kind: ImageFormat, settings: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind.name, **settings)
    return out.getvalue()
