"""Bands: the rows of an image that are in memory at once, with some of their neighbours' so that filters see across the border."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Band:
    """``rows`` rows from ``top`` on, of an image of ``height`` rows; its piece holds them after ``above`` and before ``below`` more."""

    top: int
    rows: int
    above: int
    below: int
    height: int

    @property
    def bottom(self) -> int:
        """The row after the last of its own."""
        return self.top + self.rows

    def own(self, piece: torch.Tensor) -> torch.Tensor:
        """Its own rows of a piece ``[B, C, above + rows + below, W]``."""
        return piece[:, :, self.above : self.above + self.rows]

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """Its piece of an image ``[B, C, height, W]``."""
        return image[:, :, self.top - self.above : self.bottom + self.below]

    def coarser(self, stride: int) -> Band:
        """The same on a grid whose positions are ``stride`` apart; ``stride`` divides all."""
        return Band(*(rows // stride for rows in (self.top, self.rows, self.above, self.below, self.height)))

    def finer(self, stride: int) -> Band:
        """The same on a grid with ``stride`` positions for one."""
        return Band(*(rows * stride for rows in (self.top, self.rows, self.above, self.below, self.height)))


def bands(height: int, width: int, *, area: int, multiple: int, halo: int) -> list[Band]:
    """Cut ``height`` rows into bands of full width and about ``area`` positions with their halo, and at least ``multiple`` rows.

    All borders are multiples of ``multiple``, as ``height`` is; ``halo`` rows of the neighbours come with each side that has one.
    """
    rows = max(1, (area // width - 2 * halo) // multiple) * multiple
    return [
        Band(top, min(rows, height - top), min(halo, top), min(halo, max(0, height - top - rows)), height) for top in range(0, height, rows)
    ]
