"""Compression by other codecs than JPEG: still-image formats and intra frames of video codecs.

Not in the paper, which leaves compression beyond JPEG to future work; after MoE-DiffIR (arXiv 2407.10833). They belong to the atom
``jpeg``: a new atom would change the width of every stored multi-hot label.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from PIL import features

from datamodules.degradations.formula import Formula
from datamodules.degradations.jpeg import BEST_QUALITY, WORST_QUALITY, encode
from datamodules.images.formats import has_heif, has_jxl


@dataclass(frozen=True)
class Codec:
    """A lossy codec.

    Attributes:
        best: Quality at severity 0.
        worst: Quality at severity 1; between the two it is linear in the severity, or a geometric series.
        scale: Meaning of the quality.
        apply: Function of a float32 image ``[H, W, 3]`` in 0..1 and a quality, that encodes and decodes it.
        installed: Function that returns true if the encoder is there.
        remedy: Words that say how to install it.
        geometric: If true, qualities are a geometric series.
    """

    best: float
    worst: float
    scale: str
    apply: Callable[[np.ndarray, int], np.ndarray]
    installed: Callable[[], bool]
    remedy: str
    geometric: bool = False

    def quality(self, severity: float) -> int:
        """Return the quality at a severity in 0..1."""
        if self.geometric:
            return round(self.best * (self.worst / self.best) ** severity)
        return round(self.best + (self.worst - self.best) * severity)


def _by_pillow(image: np.ndarray, quality: int, kind: str) -> np.ndarray:
    return encode(image, kind, quality=quality)


def _by_jpeg2000(image: np.ndarray, ratio: int) -> np.ndarray:
    return encode(image, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


_EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000
"""Flags of libswscale: bicubic, full chroma interpolation, full chroma input, accurate rounding, bit-exact.

They are numbers because older releases of PyAV take them all, but name only some.
"""


def _by_video(image: np.ndarray, quality: int, encoder: str, **options: str) -> np.ndarray:
    """Encode one intra frame with 4:2:0 chroma; its sides are made even, and at least 32, by repeating the last pixels.

    Colors are converted by `_EXACT` both ways; the default of PyAV darkens every colored image by 1 to 1.4 of 255.
    """
    import av

    height, width = image.shape[:2]
    down, right = (max(32, side + side % 2) - side for side in (height, width))
    pixels = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    padded = np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="edge")
    writer: Any = av.CodecContext.create(encoder, "w")
    writer.width, writer.height, writer.pix_fmt, writer.time_base = padded.shape[1], padded.shape[0], "yuv420p", Fraction(1)
    writer.options = {"crf": str(quality), "threads": "1"} | options
    reader: Any = av.CodecContext.create({"libx264": "h264", "libx265": "hevc"}[encoder], "r")
    source: Any = av.VideoFrame.from_ndarray(padded, format="rgb24")
    packets = [*writer.encode(source.reformat(format="yuv420p", interpolation=_EXACT)), *writer.encode(None), None]
    (frame,) = (frame for packet in packets for frame in reader.decode(packet))
    planes: Any = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")  # forgets where the decoder places chroma
    decoded = planes.reformat(format="rgb24", interpolation=_EXACT).to_ndarray()
    return decoded[:height, :width].astype(np.float32) / np.float32(255.0)


def _has_av() -> bool:
    return importlib.util.find_spec("av") is not None


def _pillow_has(feature: str) -> bool:
    return bool(features.check(feature))


_X265 = {"x265-params": "log-level=none:pools=none:frame-threads=1"}
_QUALITY, _CRF = "the encoder's quality, 0 to 100", "constant rate factor; higher is worse"
_PILLOW, _AV = "a Pillow with this encoder, as its wheels have", "PyAV; pip install 'mimdit[video]'"

CODECS: dict[str, Codec] = {
    "jpeg": Codec(
        BEST_QUALITY, WORST_QUALITY, _QUALITY, partial(_by_pillow, kind="JPEG"),
        partial(_pillow_has, "jpg"), _PILLOW, geometric=True,
    ),
    "webp": Codec(90, 0, _QUALITY, partial(_by_pillow, kind="WEBP"), partial(_pillow_has, "webp"), _PILLOW),
    "avif": Codec(75, 5, _QUALITY, partial(_by_pillow, kind="AVIF"), partial(_pillow_has, "avif"), _PILLOW),
    "heic": Codec(75, 5, _QUALITY, partial(_by_pillow, kind="HEIF"), has_heif, "pillow-heif; pip install 'mimdit[heic]'"),
    "jpeg2000": Codec(
        5, 80, "compression ratio; higher is worse", _by_jpeg2000,
        partial(_pillow_has, "jpg_2000"), _PILLOW, geometric=True,
    ),
    "jxl": Codec(85, 8, _QUALITY, partial(_by_pillow, kind="JXL"), has_jxl, "pillow-jxl-plugin; pip install 'mimdit[jxl]'"),
    "h264": Codec(20, 46, _CRF, partial(_by_video, encoder="libx264"), _has_av, _AV),
    "h265": Codec(20, 46, _CRF, partial(_by_video, encoder="libx265", **_X265), _has_av, _AV),
}  # fmt: skip
"""Codecs by name."""


def require_codecs(names: list[str]) -> None:
    """Check that codecs are known and their encoders installed.

    Raises:
        ValueError: One is not; the message names the package to install.
    """
    for name in names:
        if name not in CODECS:
            raise ValueError(f"codec {name!r} is unknown; choose among {', '.join(CODECS)}")
        if not CODECS[name].installed():
            raise ValueError(f"the codec {name} needs {CODECS[name].remedy}")


def compress_by(image: np.ndarray, codec: str, quality: int) -> np.ndarray:
    """Encode a float32 image ``[H, W, 3]`` in 0..1 by a codec of `CODECS` at a quality, and decode it again.

    Raises:
        ValueError: The codec is unknown, or its encoder is not installed.
    """
    require_codecs([codec])
    return CODECS[codec].apply(image, quality)


def _formula(image: np.ndarray, severity: float, rng: np.random.Generator, codec: str) -> np.ndarray:
    return compress_by(image, codec, CODECS[codec].quality(severity))


FORMULAS = {codec: Formula(partial(_formula, codec=codec), 0.5) for codec in CODECS if codec not in ("jpeg", "webp")}
"""Formulas of the atom ``jpeg`` beside those of `datamodules.degradations.jpeg`, in the set ``codecs``."""
