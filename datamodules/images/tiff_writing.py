"""Encoding of a `Photo` as TIFF, with its profile, EXIF, XMP and IPTC."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from datamodules.images.exif import KEPT_OF_TIFF, PREFIX, SUB_FOLDERS
from datamodules.images.photo import Photo

_XMP, _IPTC = 700, 33723
_INTEROPERABILITY = 0xA005
"""Place of a folder inside EXIF, which moves."""
_LITTLE = b"II*\0\0\0\0\0"
_BYTES, _SHORT, _TEXT = "B", "H", "s"
_LONG, _ENTRY = 4, 12
"""Number of the type, and bytes of a tag."""


def encode_tiff(photo: Photo, pixels: np.ndarray) -> bytes:
    """Encode ``pixels [H, W, 1..4]``, gray or RGB with straight alpha as the last of two or four, deflated."""
    settings: dict[str, Any] = {
        "photometric": "minisblack" if pixels.shape[2] < 3 else "rgb",
        "compression": "adobe_deflate",
        "predictor": True,
        "metadata": None,
        "byteorder": "<",
    }
    if pixels.shape[2] % 2 == 0:
        settings |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    if photo.icc:
        settings["iccprofile"] = photo.icc
    if photo.dpi:
        settings |= {"resolution": photo.dpi, "resolutionunit": "INCH"}
    tags = [(code, _BYTES, len(value), value, True) for code, value in ((_XMP, photo.xmp), (_IPTC, photo.iptc)) if value]
    exif = Image.Exif()
    if photo.exif:
        exif.load(PREFIX + photo.exif)
    folders = {folder: found for folder in SUB_FOLDERS if (found := dict(exif.get_ifd(folder)))}
    tags += [made for tag in KEPT_OF_TIFF if (made := _as_tag(tag, exif.get(tag))) is not None]
    software = exif.get(305)
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        pixels[:, :, 0] if pixels.shape[2] == 1 else pixels,
        extratags=[tag for tag in tags if tag[0] != 305],
        software=software if isinstance(software, str) and software.isascii() else False,
        **settings,
    )
    return _with_folders(out.getvalue(), folders)


def _as_tag(code: int, value: object) -> tuple[int, str, int, Any, bool] | None:
    """Return tifffile's form of a tag of EXIF, or None if there is none."""
    if isinstance(value, str) and value:
        encoded = value.encode()
        return (code, _TEXT, 0, value if value.isascii() else encoded, True)
    if isinstance(value, bytes) and value:
        return (code, _BYTES, len(value), value, True)
    if isinstance(value, int) and 0 <= value < 2**16:
        return (code, _SHORT, 1, value, True)
    return None


def _with_folders(data: bytes, folders: dict[int, dict[int, Any]]) -> bytes:
    """Return the file with EXIF's sub-folders at its end, and after them its own folder with the tags that point to them."""
    if not folders:
        return data
    assert data[:4] == _LITTLE[:4]  # what tifffile writes below 4 GB
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[place : place + _ENTRY] for place in range(start + 2, start + 2 + _ENTRY * count, _ENTRY)]
    changed = bytearray(data)
    for code, values in folders.items():
        folder = ImageFileDirectory_v2(_LITTLE, group=code)
        for tag, value in values.items():
            if tag != _INTEROPERABILITY:
                folder[tag] = value
        changed += b"\0" * (len(changed) % 2)
        entries.append(struct.pack("<HHII", code, _LONG, 1, len(changed)))
        changed += folder.tobytes(len(changed))
    changed += b"\0" * (len(changed) % 2)
    struct.pack_into("<I", changed, 4, len(changed))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    return bytes(changed) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
