"""A decoded photograph with what travels beside its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.images.formats import ImageFormat


@dataclass(frozen=True)
class Photo:
    """An upright photograph.

    ``pixels`` is uint8 or uint16, ``[H, W, 1]`` where it was grey, else RGB ``[H, W, 3]``; ``alpha`` ``[H, W]`` of the same type, or None.
    ``icc``, ``exif`` (as after ``Exif\\0\\0``, its orientation 1) and ``xmp`` are bytes or None, ``dpi`` a pair or None. ``format`` is that
    of the file, ``lossless`` whether a WebP was; ``remarks`` say what could not be kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    format: ImageFormat
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    lossless: bool = False
    remarks: tuple[str, ...] = ()
