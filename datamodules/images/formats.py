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
    """A format: Pillow's name, the suffixes of its files (the first one is used for writing), and how its files begin.

    Attributes:
        name: Pillow's name.
        suffixes: Suffixes of its files, lower case.
        pattern: Pattern of the first bytes; for ISO media files, None.
        brands: Brands of an ISO media file (AVIF, HEIC) that are of this format alone.
    """

    name: str
    suffixes: tuple[str, ...]
    pattern: re.Pattern[bytes] | None
    brands: frozenset[bytes] = frozenset()

    @property
    def suffix(self) -> str:
        """Suffix of written files."""
        return self.suffixes[0]


JPEG = ImageFormat("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), re.compile(rb"\xff\xd8\xff"))
PNG = ImageFormat("PNG", (".png", ".apng"), re.compile(rb"\x89PNG\r\n\x1a\n"))
WEBP = ImageFormat("WEBP", (".webp",), re.compile(rb"RIFF....WEBP", re.DOTALL))
TIFF = ImageFormat("TIFF", (".tif", ".tiff"), re.compile(rb"II[*+]\0|MM\0[*+]"))
BMP = ImageFormat("BMP", (".bmp", ".dib"), re.compile(rb"BM"))
AVIF = ImageFormat("AVIF", (".avif", ".avifs"), None, frozenset((b"avif", b"avis")))
HEIF = ImageFormat(
    "HEIF", (".heic", ".heif", ".hif", ".heics", ".heifs"), None, frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"))
)
GIF = ImageFormat("GIF", (".gif",), re.compile(rb"GIF8[79]a"))
JPEG2000 = ImageFormat(
    "JPEG2000", (".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf"), re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0")
)
JXL = ImageFormat("JXL", (".jxl",), re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"))

FORMATS = (JPEG, PNG, WEBP, TIFF, BMP, AVIF, HEIF, GIF, JPEG2000, JXL)
WRITTEN = (JPEG, PNG, WEBP, TIFF, BMP, AVIF)
HEAD = 512
"""Number of first bytes that identify the format, with the brands of ISO media files."""

_ANY_HEIF = frozenset((b"mif1", b"msf1", b"miaf"))
"""Brands that AVIF and HEIC files share."""

_SUFFIXES = frozenset(suffix for known in FORMATS for suffix in known.suffixes)
_RAW_NAMES = "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW_NAMES.split())
_RAW = re.compile(rb"II\*\0....CR|FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0|FOVb|\0MRM|....ftypcrx ", re.DOTALL)
_SURE_BMP = re.compile(rb"BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)

_OTHERS: tuple[tuple[str, str, re.Pattern[bytes] | None], ...] = (
    ("a Photoshop file", "psd psb", re.compile(rb"8BPS\0[\x01\x02]")),
    ("a GIMP file", "xcf", re.compile(rb"gimp xcf ")),
    ("a Krita or OpenRaster file", "kra ora", None),
    ("OpenEXR", "exr", re.compile(rb"\x76\x2f\x31\x01")),
    ("Radiance HDR", "hdr rgbe", re.compile(rb"#\?(RADIANCE|RGBE)\n")),
    ("QOI", "qoi", re.compile(rb"qoif")),
    ("a Netpbm image", "pbm pgm ppm pnm pam pfm", re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s|P7\nWIDTH|P[Ff]\n\d+ \d+\n")),
    ("Targa", "tga", None),
    ("PCX", "pcx", None),
    ("an icon or cursor", "ico cur icns", re.compile(rb"icns")),
    ("a DirectDraw surface", "dds", re.compile(rb"DDS \x7c\0\0\0")),
    ("JPEG XR", "jxr wdp hdp", re.compile(rb"II\xbc\x01")),
    ("JPEG-LS", "jls", re.compile(rb"\xff\xd8\xff\xf7")),
    ("an SGI image", "sgi", re.compile(rb"\x01\xda[\0\x01][\x01\x02]\0")),
    ("FITS", "fits fit fts", re.compile(rb"SIMPLE  =  ")),
    ("DICOM", "dcm dicom", re.compile(rb".{128}DICM", re.DOTALL)),
    ("DjVu", "djvu djv", re.compile(rb"AT&TFORM")),
    ("a vector drawing", "svg svgz eps wmf emf", None),
    ("an MNG or JNG animation", "mng jng", re.compile(rb"(\x8aMNG|\x8bJNG)\r\n\x1a\n")),
    ("BPG", "bpg", re.compile(rb"BPG\xfb")),
    ("FLIF", "flif", re.compile(rb"FLIF")),
)
"""Kinds of images that are not read: name, suffixes, and a pattern of the first bytes where they have distinct ones."""
_OTHER_SUFFIXES = frozenset(f".{name}" for _, names, _ in _OTHERS for name in names.split())

_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""Marker of a segment or of the end: not a stuffed byte, a restart or a fill byte."""
_END_OF_IMAGE = 0xD9


def looks_like_image(path: Path, head: bytes) -> bool:
    """Return true if a file in a folder is meant to be an image, by its first `HEAD` bytes or its suffix, also if its kind is not read."""
    return has_image_suffix(path) or _looks_readable(head) or bool(_RAW.match(head)) or _other_kind(path, head) is not None


def named_like_image(path: Path) -> bool:
    """Return true if the suffix is that of a format that is read, or of a camera's RAW file."""
    return path.suffix.lower() in _SUFFIXES | _RAW_SUFFIXES


def has_image_suffix(path: Path) -> bool:
    """Return true if the suffix is that of any kind of image, also of those that are not read."""
    return path.suffix.lower() in _SUFFIXES | _RAW_SUFFIXES | _OTHER_SUFFIXES


def format_of(path: Path, head: bytes) -> ImageFormat:
    """Return the format of a file from its first `HEAD` bytes.

    Raises:
        UnreadableImageError: The format is unknown or cannot be read here, or the file is a camera's RAW file.
    """
    if path.suffix.lower() in _RAW_SUFFIXES or _RAW.match(head):
        raise UnreadableImageError("it is a camera's RAW file; develop it first (darktable, RawTherapee) and give the 16-bit TIFF")
    found = None if (other := _other_kind(path, head)) else _known_format(head)
    if found is None:
        if other:
            raise UnreadableImageError(f"it is {other}, which is not read; export it as TIFF or PNG")
        begins = f"begins with {head[:8].hex(' ')}" if head else "is empty"
        raise UnreadableImageError(f"it {begins}, unlike any {', '.join(known.name for known in FORMATS)}")
    if found is AVIF and not features.check("avif"):
        raise UnreadableImageError("it is AVIF, which this Pillow cannot read; install Pillow 11.3 or later")
    if found is HEIF and not has_heif():
        raise UnreadableImageError("it is HEIC, which needs an optional part; pip install pillow-heif")
    if found is JPEG2000 and not features.check("jpg_2000"):
        raise UnreadableImageError("it is JPEG 2000, which this Pillow cannot read; install Pillow from its wheel")
    if found is JXL and not has_jxl():
        raise UnreadableImageError("it is JPEG XL, which needs an optional part; pip install pillow-jxl-plugin")
    return found


def has_heif() -> bool:
    """Return true if pillow-heif is installed, and register it in Pillow."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def has_jxl() -> bool:
    """Return true if pillow-jxl-plugin is installed, and register it in Pillow."""
    if importlib.util.find_spec("pillow_jxl") is None:
        return False
    importlib.import_module("pillow_jxl")
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


def _looks_readable(head: bytes) -> bool:
    """Return true if the bytes are a readable format's: not two that may as well begin a text or other data."""
    match _known_format(head):
        case None:
            return False
        case known if known is BMP:
            return bool(_SURE_BMP.match(head))
        case known if known is JXL:
            return head[:1] == b"\0"
    return True


def _known_format(head: bytes) -> ImageFormat | None:
    for known in FORMATS:
        if known.pattern is not None and known.pattern.match(head):
            return known
    return _media_format(head)


def _media_format(head: bytes) -> ImageFormat | None:
    """Return AVIF or HEIF for an ISO media file of their brands: the major brand decides, or where both may have it, the others."""
    if head[4:8] != b"ftyp":
        return None
    major, end = head[8:12], min(int.from_bytes(head[:4], "big"), len(head))
    compatible = {head[place : place + 4] for place in range(16, end, 4)}
    for brands in ({major}, compatible if major in _ANY_HEIF else set()):
        for known in (AVIF, HEIF):
            if brands & known.brands:
                return known
    return HEIF if major in _ANY_HEIF else None


def _other_kind(path: Path, head: bytes) -> str | None:
    """Return the name of a kind of image that is not read, by the first bytes, or by the suffix if no format is known by the bytes."""
    for name, _, pattern in _OTHERS:
        if pattern is not None and pattern.match(head):
            return name
    if _known_format(head) is None and head:
        suffix = path.suffix.lower().removeprefix(".")
        return next((name for name, suffixes, _ in _OTHERS if suffix in suffixes.split()), None)
    return None
