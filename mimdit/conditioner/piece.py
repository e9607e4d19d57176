"""Pieces: the parts of an image that are in memory at once, with some of their neighbours' so that filters see across the border."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Span:
    """``size`` positions from ``start`` on, of ``whole`` in all, seen with ``before`` and ``after`` more."""

    start: int
    size: int
    before: int
    after: int
    whole: int

    @property
    def own(self) -> slice:
        """Its own positions in the whole."""
        return slice(self.start, self.start + self.size)

    @property
    def seen(self) -> slice:
        """All that it sees of the whole."""
        return slice(self.start - self.before, self.start + self.size + self.after)

    @property
    def inner(self) -> slice:
        """Its own among those that it sees."""
        return slice(self.before, self.before + self.size)

    def coarser(self, stride: int) -> Span:
        """The same on a grid whose positions are ``stride`` apart; ``stride`` divides all."""
        return Span(*(count // stride for count in (self.start, self.size, self.before, self.after, self.whole)))

    def finer(self, stride: int) -> Span:
        """The same on a grid with ``stride`` positions for one."""
        return Span(*(count * stride for count in (self.start, self.size, self.before, self.after, self.whole)))


@dataclass(frozen=True)
class Piece:
    """A rectangle of an image ``[B, C, H, W]``: a span down and one across."""

    down: Span
    across: Span

    def own(self, piece: torch.Tensor) -> torch.Tensor:
        """The piece without its neighbours' positions."""
        return piece[:, :, self.down.inner, self.across.inner]

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """The piece of an image."""
        return image[:, :, self.down.seen, self.across.seen]

    def put(self, image: torch.Tensor, own: torch.Tensor) -> None:
        """Write its own positions into an image."""
        image[:, :, self.down.own, self.across.own] = own

    def coarser(self, stride: int) -> Piece:
        """The same on a grid whose positions are ``stride`` apart."""
        return Piece(self.down.coarser(stride), self.across.coarser(stride))

    def finer(self, stride: int) -> Piece:
        """The same on a grid with ``stride`` positions for one."""
        return Piece(self.down.finer(stride), self.across.finer(stride))


def pieces(height: int, width: int, *, area: int, multiple: int, halo: int) -> list[Piece]:
    """Cut an image into pieces of about ``area`` positions with their halo, row by row, squares where it is wide.

    All borders are multiples of ``multiple``, as ``height`` and ``width`` are, and a piece's own sides at least one ``multiple``; ``halo``
    positions of the neighbours come with each side that has one.
    """
    widest = max(multiple, math.isqrt(area) - 2 * halo)
    if width <= widest + 2 * halo:
        columns, seen = width, width
    else:
        columns = _multiple(-(-width // -(-width // widest)), multiple)
        seen = columns + 2 * halo
    rows = max(multiple, (area // seen - 2 * halo) // multiple * multiple)
    return [Piece(down, across) for down in _spans(height, rows, halo) for across in _spans(width, columns, halo)]


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def _spans(whole: int, size: int, halo: int) -> list[Span]:
    return [
        Span(start, min(size, whole - start), min(halo, start), min(halo, max(0, whole - start - size)), whole)
        for start in range(0, whole, size)
    ]
