"""TIFF read by its tags: gray and RGB of 8 or 16 bits by tifffile; other kinds of 8 bits or fewer are left to Pillow."""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import tifffile

from datamodules.images.exif import KEPT_OF_TIFF
from datamodules.images.formats import UnreadableImageError
from datamodules.images.ifd import exif_of, order_of, read_tags

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 274, 282, 283, 296, 338, 339
_XMP, _IPTC, _ICC = 700, 33723, 34675
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC = 262
_LAYOUT = frozenset(
    (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 530)
)  # fmt: skip
"""Tags that say where the pixels are and what they mean."""
_PHOTOMETRIC_NAMES = {
    _WHITE_IS_ZERO: "gray",
    _BLACK_IS_ZERO: "gray",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "transparency mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "color filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear RAW",
}
_OLD_JPEG = 6
_ASSOCIATED, _UNASSOCIATED = 1, 2
_UNITS = {2: 1.0, 3: 2.54}
"""Factor to dots per inch, by resolution unit."""

_REMEDY = "save it as RGB or gray of 8 or 16 bits per channel"


@dataclass(frozen=True)
class TiffHeader:
    """Description of a TIFF's first page.

    Attributes:
        size: Width and height, without orientation.
        frames: Number of pages.
        orientation: 1..8; 1 if it is missing or invalid.
        by_tags: True if `decode_tiff` reads it, false if it is left to Pillow.
        kind: Words for its pixels.
    """

    size: tuple[int, int]
    frames: int
    orientation: int
    by_tags: bool
    kind: str

    @property
    def not_supported(self) -> UnreadableImageError:
        """Error for a page that Pillow cannot read either."""
        return UnreadableImageError(f"its pixels are {self.kind}, which cannot be read; {_REMEDY}")


def read_header(file: IO[bytes]) -> TiffHeader:
    """Read the description of the first page.

    Raises:
        UnreadableImageError: The page is of a kind that is not supported.
        tifffile.TiffFileError: The file is damaged.
    """
    with _first_page(file) as (tif, page):
        orientation, photometric = _number(page, _ORIENTATION, 1), int(page.photometric)
        name = _PHOTOMETRIC_NAMES.get(photometric, f"of photometric interpretation {photometric}")
        return TiffHeader(
            size=(page.imagewidth, page.imagelength),
            frames=len(tif.pages),
            orientation=orientation if 1 <= orientation <= 8 else 1,
            by_tags=_is_by_tags(page),
            kind=f"{name} of {page.samplesperpixel} channels, compression {int(page.compression)}",
        )


def decode_tiff(data: bytes) -> np.ndarray:
    """Decode the first page as ``[H, W, 1..4]`` of uint8 or uint16: gray or RGB with black at 0, with straight alpha if it has alpha.

    The samples are read by the tags: photometric interpretation, planar configuration, extra samples, byte order, strips or tiles,
    compression and predictor. Extra samples that are no alpha, such as a scanner's infrared, are left out; `tiff_remarks` counts them.

    Raises:
        UnreadableImageError: The page is of a kind that is not supported, or cut short.
        tifffile.TiffFileError: The file is damaged.
    """
    with _first_page(io.BytesIO(data)) as (_, page):
        assert _is_by_tags(page)
        _check_segments(page, len(data))
        # Samples apart or together: [samples, 1, H, W, 1] or [1, 1, H, W, samples].
        planes = page.asarray(squeeze=False).reshape(page.shaped)
        pixels = np.moveaxis(planes[:, 0, :, :, 0], 0, -1) if planes.shape[0] > 1 else planes[0, 0]
        colors, extra = _colors(page), _extra_samples(page)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        color = pixels[:, :, :colors]
        if page.photometric == _WHITE_IS_ZERO:
            color = np.iinfo(pixels.dtype).max - color
        kind = next((kind for kind in extra if kind in (_ASSOCIATED, _UNASSOCIATED)), None)
        if kind is None:
            return np.ascontiguousarray(color)
        alpha = pixels[:, :, colors + extra.index(kind)]
        return np.dstack([_straight(color, alpha) if kind == _ASSOCIATED else color, alpha])


def tiff_remarks(data: bytes) -> list[str]:
    """Describe the samples that `decode_tiff` leaves out."""
    with _first_page(io.BytesIO(data)) as (_, page):
        extra = _extra_samples(page) if _is_by_tags(page) else ()
    alphas = [kind for kind in extra if kind in (_ASSOCIATED, _UNASSOCIATED)]
    count = len(extra) - bool(alphas)
    return [f"its {count} extra channel{'s are' if count > 1 else ' is'} not transparency and left out"] if count else []


def tiff_metadata(data: bytes) -> dict[str, Any]:
    """Return profile, EXIF, XMP, IPTC and resolution, by the names of a `Photo`'s fields."""
    with _first_page(io.BytesIO(data)) as (_, page):
        tags = {code: tag.value for code in (_XMP, _IPTC, _ICC) if (tag := page.tags.get(code)) is not None}
        resolution = [page.tags.get(code) for code in (_X_RESOLUTION, _Y_RESOLUTION)]
        factor = _UNITS.get(_number(page, _UNIT, 2))
        iptc = page.tags.get(_IPTC)
        swapped = iptc is not None and iptc.dtype == tifffile.DATATYPE.LONG  # by an old error of libtiff, the bytes as numbers of 32 bits
    found: dict[str, Any] = {"icc": _as_bytes(tags.get(_ICC)), "xmp": _as_bytes(tags.get(_XMP))}
    found["iptc"] = np.asarray(tags[_IPTC], f"{order_of(data)}u4").tobytes() if swapped else _as_bytes(tags.get(_IPTC))
    if factor is not None and all(resolution):
        across, down = (tag.value for tag in resolution if tag is not None)
        found["dpi"] = tuple(top / bottom * factor if bottom else 0.0 for top, bottom in (across, down))
    return found


def tiff_exif(data: bytes) -> bytes | None:
    """Return the tags that describe the photograph, with the sub-folders EXIF and GPS, as EXIF after its 6-byte prefix."""
    kept = [tag for tag in read_tags(data) if tag.folder or tag.code in KEPT_OF_TIFF]
    return exif_of(kept, order_of(data)) if kept else None


@contextmanager
def _first_page(file: IO[bytes]) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPage]]:
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs about damaged tags is raised below, or does not matter
    try:
        with tifffile.TiffFile(file) as tif:
            page = tif.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            _check_layout(file, tif, page)
            yield tif, page
    finally:
        logger.setLevel(level)


def _check_layout(file: IO[bytes], tif: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """Check that the tags that say what the pixels are could be read, because tifffile supposes defaults for others.

    Raises:
        UnreadableImageError: One is damaged, or it is not said how pixels are to be understood.
    """
    counts, size = ("Q", 20) if tif.is_bigtiff else ("H", 12)
    file.seek(page.offset)
    (count,) = struct.unpack(f"{tif.byteorder}{counts}", file.read(struct.calcsize(counts)))
    entries = file.read(count * size)
    codes = {struct.unpack_from(f"{tif.byteorder}H", entries, place)[0] for place in range(0, len(entries) - 1, size)}
    if damaged := sorted(code for code in codes & _LAYOUT if code not in page.tags):
        raise UnreadableImageError(f"its TIFF data is damaged: tag {damaged[0]} cannot be read")
    if _PHOTOMETRIC not in page.tags:
        raise UnreadableImageError(f"it does not say whether it is RGB or gray (tag {_PHOTOMETRIC}); {_REMEDY}")


def _is_by_tags(page: tifffile.TiffPage) -> bool:
    """Return true if the page is gray or RGB of 8 or 16 bits, false if it is left to Pillow.

    Raises:
        UnreadableImageError: It is of a kind that neither supports; the message names it.
    """
    bits, formats = _bits(page), set(_numbers(page, _SAMPLE_FORMAT, (1,)))
    if 3 in formats or max(bits) > 16:
        raise UnreadableImageError("it has floating-point or 32-bit pixels; convert it to 16 bits per channel")
    if not formats <= {1, 4}:
        raise UnreadableImageError(f"its samples are signed or complex numbers; {_REMEDY}")
    if len(bits) > 1:
        raise UnreadableImageError(f"its channels have {' and '.join(map(str, sorted(bits)))} bits; {_REMEDY}")
    if page.imagedepth > 1:
        raise UnreadableImageError(f"it is a volume of {page.imagedepth} layers; {_REMEDY}")
    depth, photometric = bits.pop(), int(page.photometric)
    if depth not in (1, 2, 4, 8, 16):
        raise UnreadableImageError(f"it has {depth} bits per channel; {_REMEDY}")
    if depth in (8, 16) and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and page.compression != _OLD_JPEG:
        _check_samples(page)
        return True
    if depth == 16 or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR):
        name = _PHOTOMETRIC_NAMES.get(photometric, f"of photometric interpretation {photometric}")
        raise UnreadableImageError(f"its pixels are {name} of {depth} bits; {_REMEDY}")
    return False


def _check_samples(page: tifffile.TiffPage) -> None:
    if (missing := _colors(page) - page.samplesperpixel) > 0:
        raise UnreadableImageError(f"it lacks {missing} of the three channels of RGB; {_REMEDY}")
    if page.compression == 1 and page.predictor != 1:
        raise UnreadableImageError(f"it has predictor {int(page.predictor)} without compression; {_REMEDY}")
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise UnreadableImageError(f"its compression {int(page.compression)} is not supported; save it uncompressed or with deflate")
    if page.predictor not in (1, 2):
        raise UnreadableImageError(f"its predictor {int(page.predictor)} is not one of whole numbers; save it with deflate")
    if page.is_subsampled:
        raise UnreadableImageError(f"its colors are subsampled; {_REMEDY}")


def _check_segments(page: tifffile.TiffPage, size: int) -> None:
    """Check that every strip or tile is there, because tifffile fills what is missing.

    Raises:
        UnreadableImageError: One is missing, empty or reaches beyond the file.
    """
    expected = 1 if page.is_contiguous else math.prod(page.chunked)
    counts = [page.nbytes] if page.is_contiguous else list(page.databytecounts)
    if len(page.dataoffsets) < expected or len(counts) < expected:
        raise UnreadableImageError(f"its TIFF data is damaged: it has {len(page.dataoffsets)} of {expected} strips or tiles")
    for offset, count in zip(page.dataoffsets[:expected], counts[:expected], strict=True):
        if not 0 < offset <= size - count or count == 0:
            raise UnreadableImageError("its TIFF data was cut short, or lacks a strip or tile")


def _straight(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colors that were multiplied by alpha as they were before, black where alpha is 0."""
    most = np.iinfo(color.dtype).max
    divided = color * np.float64(most) / np.maximum(alpha, 1)[:, :, None]
    return np.minimum(np.rint(divided), most).astype(color.dtype) * (alpha > 0)[:, :, None]


def _colors(page: tifffile.TiffPage) -> int:
    return 3 if page.photometric == _RGB else 1


def _extra_samples(page: tifffile.TiffPage) -> tuple[int, ...]:
    """Return the kind of each sample after the colors: 0 if the tag does not say."""
    kinds, count = _numbers(page, _EXTRA_SAMPLES, ()), page.samplesperpixel - _colors(page)
    return (*kinds, *(0,) * count)[:count]


def _bits(page: tifffile.TiffPage) -> set[int]:
    return set(_numbers(page, 258, (1,)))


def _numbers(page: tifffile.TiffPage, code: int, default: tuple[int, ...]) -> tuple[int, ...]:
    tag = page.tags.get(code)
    if tag is None:
        return default
    return tuple(int(value) for value in (tag.value if isinstance(tag.value, tuple) else (tag.value,)))


def _number(page: tifffile.TiffPage, code: int, default: int) -> int:
    return (*_numbers(page, code, (default,)), default)[0]


def _as_bytes(value: object) -> bytes | None:
    """Return a tag's value of bytes, or of numbers below 256."""
    if isinstance(value, bytes):
        return value or None
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, tuple) else None
