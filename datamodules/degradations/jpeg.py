"""JPEG compression, by a real encoder. Not in the paper."""

import cv2
import numpy as np

from datamodules.degradations.formula import Formula

PLACE = 6
"""Place on the way of the light, from the scene (0) to the file (6)."""

STREAM = 6
"""Key of the random stream; it stays when places change."""

_BEST, _WORST = 90, 10


def jpeg_quality(severity: float) -> int:
    """Quality of the encoder: 90 at severity 0, 30 at 0.5, 10 at 1 (a geometric series: each step loses about as much)."""
    return round(_BEST * (_WORST / _BEST) ** severity)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode a float32 image ``[H, W, 3]`` in 0..1 as JPEG with 4:2:0 chroma, as cameras and web pages do, and decode it again."""
    pixels = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV could not encode a JPEG"
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / np.float32(255.0)


def jpeg(image: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Compress a float32 image ``[H, W, 3]`` in 0..1 as JPEG with the quality of `jpeg_quality`; nothing in it is random."""
    return compress(image, jpeg_quality(severity))


FORMULAS = {
    "original": Formula(jpeg),
}
