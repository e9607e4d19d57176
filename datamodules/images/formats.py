"""Which format a file is in: told by its first bytes, never by its name."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import features


class UnreadableImageError(ValueError):
    """A file that is no image we can read whole; the message says why, and what to do where something can be done."""


@dataclass(frozen=True)
class ImageFormat:
    """A format: its name as Pillow has it, the suffixes of its files, the one that we write first, and what its first bytes match."""

    name: str
    suffixes: tuple[str, ...]
    pattern: re.Pattern

    @property
    def suffix(self) -> str:
        """The suffix that we give to files in it."""
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
"""First bytes of a file that tell its format."""

_SUFFIXES = frozenset(suffix for known in FORMATS for suffix in known.suffixes)
_RAW_NAMES = "3fr arw cr2 cr3 crw dcr dng erf kdc mrw nef nrw orf pef raf raw rw2 sr2 srf srw x3f"
_RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW_NAMES.split())
_RAW = re.compile(rb"II\*\0....CR|FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0|FOVb|\0MRM|....ftypcrx ", re.DOTALL)


def looks_like_image(path: Path, head: bytes) -> bool:
    """Whether a file found in a folder is meant to be an image, by its first `HEAD` bytes or by its suffix; a RAW file is."""
    suffix = path.suffix.lower()
    return suffix in _SUFFIXES | _RAW_SUFFIXES or any(known.pattern.match(head) for known in FORMATS if known.name != "BMP")


def named_like_image(path: Path) -> bool:
    """Whether the suffix is an image's."""
    return path.suffix.lower() in _SUFFIXES | _RAW_SUFFIXES


def format_of(path: Path, head: bytes) -> ImageFormat:
    """The format that the first `HEAD` bytes of a file tell.

    Raises:
        UnreadableImageError: They tell none that can be read here, or the file is a camera's RAW file.
    """
    if path.suffix.lower() in _RAW_SUFFIXES or _RAW.match(head):
        raise UnreadableImageError("it is a camera's RAW file; develop it first (darktable, RawTherapee) and give the 16-bit TIFF")
    found = next((known for known in FORMATS if known.pattern.match(head)), None)
    if found is None:
        begins = f"begins with {head[:8].hex(' ')}" if head else "is empty"
        raise UnreadableImageError(f"it {begins}, as no {', '.join(known.name for known in FORMATS)} does")
    if found.name == "AVIF" and not features.check("avif"):
        raise UnreadableImageError("it is AVIF, which this Pillow cannot read; install Pillow 11.3 or later")
    if found.name == "HEIF" and not has_heif():
        raise UnreadableImageError("it is HEIC, which needs an optional part; pip install pillow-heif")
    return found


def has_heif() -> bool:
    """Whether pillow-heif is installed; it is made known to Pillow then."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True
