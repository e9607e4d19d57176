"""Image formats, detected by first bytes and never by name."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import features


class UnreadableImageError(ValueError):
    """A file that is not a complete, readable image; the message gives the reason, and a remedy if there is one."""


@dataclass(frozen=True)
class ImageFormat:
    """A format: Pillow's name, the suffixes of its files (the first one is used for writing), and a pattern of its first bytes."""

    name: str
    suffixes: tuple[str, ...]
    pattern: re.Pattern

    @property
    def suffix(self) -> str:
        """Suffix of written files."""
        return self.suffixes[0]


FORMATS = (
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), re.compile(rb"\xff\xd8\xff")),
    ImageFormat("PNG", (".png",), re.compile(rb"\x89PNG\r\n\x1a\n")),
    ImageFormat("WEBP", (".webp",), re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ImageFormat("TIFF", (".tif", ".tiff"), re.compile(rb"II[*+]\0|MM\0[*+]")),
    ImageFormat("BMP", (".bmp", ".dib"), re.compile(rb"BM")),
    ImageFormat("AVIF", (".avif",), re.compile(rb"....ftyp(avif|avis)", re.DOTALL)),
    ImageFormat("HEIF", (".heic", ".heif", ".hif"), re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)),
)
WRITTEN = tuple(known for known in FORMATS if known.name != "HEIF")
PNG = next(known for known in FORMATS if known.name == "PNG")
HEAD = 32
"""Number of first bytes that identify the format."""

_SUFFIXES = frozenset(suffix for known in FORMATS for suffix in known.suffixes)
_RAW_NAMES = "3fr arw cr2 cr3 crw dcr dng erf kdc mrw nef nrw orf pef raf raw rw2 sr2 srf srw x3f"
_RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW_NAMES.split())
_RAW = re.compile(rb"II\*\0....CR|FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0|FOVb|\0MRM|....ftypcrx ", re.DOTALL)
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""Marker of a segment or of the end: not a stuffed byte, a restart or a fill byte."""
_END_OF_IMAGE = 0xD9


def looks_like_image(path: Path, head: bytes) -> bool:
    """Return true if a file in a folder is meant to be an image, by its first `HEAD` bytes or its suffix, RAW included."""
    suffix = path.suffix.lower()
    return suffix in _SUFFIXES | _RAW_SUFFIXES or any(known.pattern.match(head) for known in FORMATS if known.name != "BMP")


def named_like_image(path: Path) -> bool:
    """Return true if the suffix is an image's, RAW included."""
    return path.suffix.lower() in _SUFFIXES | _RAW_SUFFIXES


def format_of(path: Path, head: bytes) -> ImageFormat:
    """Return the format of a file from its first `HEAD` bytes.

    Raises:
        UnreadableImageError: The format is unknown or cannot be read here, or the file is a camera's RAW file.
    """
    if path.suffix.lower() in _RAW_SUFFIXES or _RAW.match(head):
        raise UnreadableImageError("it is a camera's RAW file; develop it first (darktable, RawTherapee) and give the 16-bit TIFF")
    found = next((known for known in FORMATS if known.pattern.match(head)), None)
    if found is None:
        begins = f"begins with {head[:8].hex(' ')}" if head else "is empty"
        raise UnreadableImageError(f"it {begins}, unlike any {', '.join(known.name for known in FORMATS)}")
    if found.name == "AVIF" and not features.check("avif"):
        raise UnreadableImageError("it is AVIF, which this Pillow cannot read; install Pillow 11.3 or later")
    if found.name == "HEIF" and not has_heif():
        raise UnreadableImageError("it is HEIC, which needs an optional part; pip install pillow-heif")
    return found


def has_heif() -> bool:
    """Return true if pillow-heif is installed, and register it in Pillow."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def jpeg_ends(data: bytes) -> bool:
    """Return true if an end marker follows the image data of a JPEG; one inside an earlier segment (of a thumbnail) does not count."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker = data[found.end() - 1]
        if marker == _END_OF_IMAGE:
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False
