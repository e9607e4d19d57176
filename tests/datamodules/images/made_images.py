"""Images in every format and kind, small."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(height: int = 24, width: int = 40, channels: int = 3, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """A smooth picture with a little noise; no two of its corners are alike."""
    rng = np.random.default_rng(seed)
    ramps = np.stack([np.linspace(0, 1, width)[None].repeat(height, 0), np.linspace(1, 0.2, height)[:, None].repeat(width, 1)], axis=2)
    values = ramps[:, :, [0, 1, 0, 1][:channels]] * [0.9, 0.8, 0.5, 0.7][:channels] + rng.random((height, width, channels)) * 0.1
    return (values * np.iinfo(dtype).max).astype(dtype)


def exif(orientation: int = 1) -> Image.Exif:
    """EXIF with a maker, a date in its sub-folder and an orientation."""
    made = Image.Exif()
    made[0x0112], made[0x010F] = orientation, "Maker"
    made.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    return made


def encoded(name: str, mode: str = "RGB", **settings: object) -> bytes:
    """The picture by Pillow."""
    rgb = Image.fromarray(picture())
    if mode in ("RGBA", "LA"):
        rgb.putalpha(Image.fromarray(picture(channels=1, seed=1)[:, :, 0]))
    out = io.BytesIO()
    rgb.convert(mode).save(out, format=name, **settings)
    return out.getvalue()


def deep(suffix: str, channels: int = 3) -> bytes:
    """The picture in 16 bits by OpenCV; a TIFF with alpha, which OpenCV does not tag as such, by tifffile."""
    pixels = picture(channels=channels, dtype=np.uint16)
    if suffix == ".tif" and channels == 4:
        return tiff(pixels, photometric="rgb", extrasamples=["unassalpha"])
    done, data = cv2.imencode(suffix, pixels[:, :, [2, 1, 0, 3][:channels]] if channels > 1 else pixels)
    assert done
    return data.tobytes()


def floating_tiff() -> bytes:
    """A gray TIFF of 32-bit floats."""
    out = io.BytesIO()
    tifffile.imwrite(out, picture(channels=1)[:, :, 0].astype(np.float32), photometric="minisblack")
    return out.getvalue()


def tiff(pixels: np.ndarray, **settings: object) -> bytes:
    """A TIFF by tifffile."""
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, metadata=None, **settings)
    return out.getvalue()


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels ``[H, W, C]`` as Pillow turns each of their channels."""
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    if method is None:
        return pixels
    channels = np.moveaxis(pixels, 2, 0)
    return np.stack([np.asarray(Image.fromarray(channel.copy()).transpose(Image.Transpose(method))) for channel in channels], axis=2)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(rows: np.ndarray, bits: int, kind: int, *chunks: tuple[bytes, bytes], width: int | None = None) -> bytes:
    """A PNG of rows ``[H, bytes]``, uint8 and already packed, or ``[H, W, C]`` of uint16, with chunks before the pixels."""
    width = width or rows.shape[1]
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    packed = b"".join(b"\0" + row.astype(">u2" if rows.dtype == np.uint16 else np.uint8).tobytes() for row in rows)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(packed)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in parts)


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks after its header."""
    return data[:33] + b"".join(png_chunk(name, content) for name, content in chunks) + data[33:]


def to_png(image):
    """A PNG file of uint8 RGB, or of RGB in 0..1."""
    pixels = image if image.dtype == np.uint8 else np.round(image * 255).astype(np.uint8)
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
