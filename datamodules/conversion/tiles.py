"""Aligned tiles of a pair: decoding a 20-megapixel photograph for one crop of 512 pixels would starve a GPU."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from datamodules.rng import named_rng

_ENCODINGS = {
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # values above 100 are lossless
}


@dataclass(frozen=True)
class TileGrid:
    """Grid of tiles with ``side`` pixels in an image: rows and columns from the top left, the last ones shifted back inside."""

    height: int
    width: int
    side: int

    @property
    def rows(self) -> list[int]:
        """Top of every row of tiles."""
        return _starts(self.height, self.side)

    @property
    def columns(self) -> list[int]:
        """Left side of every column of tiles."""
        return _starts(self.width, self.side)


def cut_tiles(key: str, lq: np.ndarray, gt: np.ndarray, side: int, codec: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Cut a pair into samples ``<key>_t<row>x<column>`` that together cover every pixel.

    Tiles are ``side`` pixels high and wide. Where the size of the image is not a multiple of that, the last row and column begin further up
    and left, and overlap the ones before; an image smaller than a tile keeps its size in that direction. Stored tiles are upright.

    Args:
        key: Key of the pair.
        lq: Degraded image, uint8 BGR ``[H, W, 3]``.
        gt: Ground truth of the same shape.
        side: Side of the tiles in pixels.
        codec: ``png`` or ``webp``, both lossless.
        fields: JSON fields of the pair. A tile replaces size, orientations and checksums, and adds ``tile``: [top, left] in pixels.
    """
    suffix, parameters = _ENCODINGS[codec]
    grid = TileGrid(lq.shape[0], lq.shape[1], side)
    samples = []
    for row, top in enumerate(grid.rows):
        for column, left in enumerate(grid.columns):
            crops = [image[top : top + side, left : left + side] for image in (lq, gt)]
            lq_data, gt_data = (_encode(crop, suffix, parameters) for crop in crops)
            height, width = crops[0].shape[:2]
            changed = {
                "tile": [top, left],
                "width": width,
                "height": height,
                "lq_orientation": 1,
                "gt_orientation": 1,
                "lq_sha256": hashlib.sha256(lq_data).hexdigest(),
                "gt_sha256": hashlib.sha256(gt_data).hexdigest(),
            }
            name = f"{key}_t{row:02d}x{column:02d}"
            samples.append({"__key__": name, f"lq{suffix}": lq_data, f"gt{suffix}": gt_data, "json": {**fields, **changed}})
    return samples


def shuffle_tiles(samples: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return samples in an order drawn from (seed, key), so that neighbors are separated and a missing sample does not move the others."""
    return sorted(samples, key=lambda sample: named_rng(seed, "tile", sample["__key__"]).random())


def _starts(length: int, side: int) -> list[int]:
    return [0] if length <= side else [*range(0, length - side, side), length - side]


def _encode(image: np.ndarray, suffix: str, parameters: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, parameters)
    assert done
    return data.tobytes()
