"""Lossy compression by real encoders. Not in the paper."""

import io

import cv2
import numpy as np
from PIL import Image

from datamodules.degradations.formula import Formula

PLACE = 6
"""Position on the path of the light, from the scene (0) to the file (6)."""

STREAM = 6
"""Key of the random stream; it stays the same when positions change."""

BEST_QUALITY, WORST_QUALITY = 90, 10
"""Qualities of the encoder at severity 0 and 1."""


def jpeg_quality(severity: float) -> int:
    """Return the encoder's quality: 90 at severity 0, 30 at 0.5, 10 at 1 (a geometric series: each step loses about as much)."""
    return round(BEST_QUALITY * (WORST_QUALITY / BEST_QUALITY) ** severity)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode a float32 image ``[H, W, 3]`` in 0..1 as JPEG with 4:2:0 chroma, as cameras and web pages do, and decode it again."""
    pixels = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV could not encode a JPEG"
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV could not decode its own JPEG"
    return decoded[..., ::-1].astype(np.float32) / np.float32(255.0)


def jpeg(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compress a float32 image ``[H, W, 3]`` in 0..1 as JPEG with the quality of `jpeg_quality`; nothing is random."""
    return compress(image, jpeg_quality(severity))


def encode(image: np.ndarray, kind: str, **options) -> np.ndarray:
    """Encode a float32 image ``[H, W, 3]`` in 0..1 by Pillow in the format ``kind`` with its encoder's ``options``, and decode it again."""
    file = io.BytesIO()
    Image.fromarray(np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)).save(file, kind, **options)
    file.seek(0)
    return np.asarray(Image.open(file).convert("RGB"), np.float32) / np.float32(255.0)


def _near(quality: float, offset: float) -> int:
    """Return a quality times ``exp(offset / 10)``, in 5..95."""
    return int(np.clip(round(quality * np.exp(0.1 * offset)), 5, 95))


def chroma(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compress an image ``[H, W, 3]`` as JPEG with full, halved or quartered chroma and a quality near `jpeg_quality`."""
    subsampling, offset = ("4:4:4", "4:2:2", "4:2:0")[int(rng.integers(3))], rng.normal()
    return encode(image, "JPEG", quality=_near(jpeg_quality(severity), offset), subsampling=subsampling)


def twice(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compress an image ``[H, W, 3]`` twice as JPEG; the block grids differ by a shift or a resize, the content stays in place."""
    offsets, shifted = rng.normal(1.0, 2.0, 2), rng.random() < 0.5
    top, left = (int(part) for part in rng.integers(0, 8, 2))
    factor = 1.0 + rng.uniform(-0.25, 0.35) * min(1.0, 2.0 * severity)
    first, second = (_near(jpeg_quality(severity), offset) for offset in offsets)
    height, width = image.shape[:2]
    if shifted:
        padded = cv2.copyMakeBorder(image, top, 0, left, 0, cv2.BORDER_REFLECT)
        once = encode(padded, "JPEG", quality=first)[top:, left:]
    else:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        once = encode(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1.0 else cv2.INTER_CUBIC), "JPEG", quality=first)
        once = cv2.resize(once, (width, height), interpolation=cv2.INTER_AREA if factor > 1.0 else cv2.INTER_CUBIC)
    return encode(once, "JPEG", quality=second)


def quantization_tables(quality: int, growth: float, start: float, coarser: float) -> list[list[int]]:
    """Return tables of luma and chroma, 64 steps each, row by row.

    The steps are ``start + 10 * (u + v) ** growth`` at quality 50, scaled by the IJG's rule; chroma's are ``coarser`` times luma's.
    """
    scale = 50.0 / quality if quality < 50 else 2.0 - quality / 50.0
    u, v = np.mgrid[:8, :8]
    steps = (start + 10.0 * (u + v).astype(float) ** growth) * scale
    return [np.clip(np.rint(table), 1, 255).astype(int).ravel().tolist() for table in (steps, steps * coarser)]


def tables(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compress an image ``[H, W, 3]`` as JPEG with non-standard quantization tables."""
    growth, start, coarser = rng.uniform(0.2, 1.0), rng.uniform(6.0, 14.0), rng.uniform(1.0, 2.5)
    subsampling = ("4:4:4", "4:2:0")[int(rng.integers(2))]
    return encode(image, "JPEG", qtables=quantization_tables(jpeg_quality(severity), growth, start, coarser), subsampling=subsampling)


def webp(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compress an image ``[H, W, 3]`` as lossy WebP: predicted blocks and a filter over their edges."""
    offset = rng.normal()
    return encode(image, "WEBP", quality=int(np.clip(round(90.0 * (1.0 - severity) ** 1.5 + 2.0 * offset), 0, 95)), method=2)


FORMULAS = {
    "original": Formula(jpeg, 2.0),
    "chroma": Formula(chroma),
    "twice": Formula(twice),
    "tables": Formula(tables),
    "webp": Formula(webp, 0.5),
}
"""Formulas for compression, the original first."""
