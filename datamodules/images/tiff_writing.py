"""Encoding of a `Photo` as TIFF, with its profile, EXIF, XMP and IPTC."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import tifffile

from datamodules.images.exif import KEPT_OF_TIFF
from datamodules.images.ifd import ENTRY, Tag, folder_bytes, order_of, read_tags
from datamodules.images.photo import Photo

_XMP, _IPTC = 700, 33723
_BYTE = 1


def encode_tiff(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode ``pixels [H, W, 1..4]``, gray or RGB, of two or four channels the last is straight alpha; in the byte order of its EXIF."""
    order = order_of(photo.exif) if photo.exif else "<"
    settings: dict[str, Any] = {
        "photometric": "minisblack" if pixels.shape[2] < 3 else "rgb",
        "compression": "adobe_deflate",
        "predictor": True,
        "metadata": None,
        "software": False,
        "byteorder": order,
    }
    if pixels.shape[2] % 2 == 0:
        settings |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    if photo.icc:
        settings["iccprofile"] = photo.icc
    if photo.dpi:
        settings |= {"resolution": photo.dpi, "resolutionunit": "INCH"}
    out = io.BytesIO()
    tifffile.imwrite(out, pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, **settings)
    tags = [tag for tag in read_tags(photo.exif) if tag.folder or tag.code in KEPT_OF_TIFF] if photo.exif else []
    tags += [Tag(code, _BYTE, len(value), value) for code, value in ((_XMP, photo.xmp), (_IPTC, photo.iptc)) if value]
    return _with_tags(out.getvalue(), tags, order)


def _with_tags(data: bytes, tags: list[Tag], order: str) -> bytes:
    """Return a TIFF with more tags: its folder is written anew at the end, where the values of its own tags stay where they are."""
    if not tags:
        return data
    assert data[2:4] in (b"*\0", b"\0*")  # what tifffile writes below 4 GB
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[place : place + ENTRY] for place in range(start + 2, start + 2 + ENTRY * count, ENTRY)]
    place = len(data) + len(data) % 2
    # The own entries shift the values of the new ones, so these are laid out as if they came behind.
    added = folder_bytes(tags, order, place + ENTRY * count)
    own = ENTRY * len(tags)
    entries += [added[2 + at : 2 + at + ENTRY] for at in range(0, own, ENTRY)]
    entries.sort(key=lambda entry: struct.unpack_from(f"{order}H", entry))
    head = bytearray(data.ljust(place, b"\0"))
    struct.pack_into(f"{order}I", head, 4, place)
    return bytes(head) + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4) + added[2 + own + 4 :]
