"""Pieces: parts of an image that are processed one at a time, with a halo of neighboring positions for filters and windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Span:
    """Range of ``size`` positions from ``start``, out of ``whole``, with a halo of ``before`` and ``after`` positions."""

    start: int
    size: int
    before: int
    after: int
    whole: int

    @property
    def own(self) -> slice:
        """Slice of the own positions within the whole."""
        return slice(self.start, self.start + self.size)

    @property
    def seen(self) -> slice:
        """Slice of the own positions and the halo within the whole."""
        return slice(self.start - self.before, self.start + self.size + self.after)

    @property
    def inner(self) -> slice:
        """Slice of the own positions within the span and its halo."""
        return slice(self.before, self.before + self.size)

    def coarser(self, stride: int) -> Span:
        """Return the span on a grid that is coarser by ``stride``, which divides all of its numbers."""
        return Span(*(count // stride for count in (self.start, self.size, self.before, self.after, self.whole)))

    def finer(self, stride: int) -> Span:
        """Return the span on a grid that is finer by ``stride``."""
        return Span(*(count * stride for count in (self.start, self.size, self.before, self.after, self.whole)))


@dataclass(frozen=True)
class Piece:
    """Rectangle of an image ``[B, C, H, W]``: a span down and a span across."""

    down: Span
    across: Span

    def own(self, piece: torch.Tensor) -> torch.Tensor:
        """Return a piece without its halo."""
        return piece[:, :, self.down.inner, self.across.inner]

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """Return the piece of an image, with its halo."""
        return image[:, :, self.down.seen, self.across.seen]

    def put(self, image: torch.Tensor, own: torch.Tensor) -> None:
        """Write the piece's own positions into an image."""
        image[:, :, self.down.own, self.across.own] = own

    def coarser(self, stride: int) -> Piece:
        """Return the piece on a grid that is coarser by ``stride``."""
        return Piece(self.down.coarser(stride), self.across.coarser(stride))

    def finer(self, stride: int) -> Piece:
        """Return the piece on a grid that is finer by ``stride``."""
        return Piece(self.down.finer(stride), self.across.finer(stride))


def pieces(height: int, width: int, *, area: int, multiple: int, halo: int) -> list[Piece]:
    """Cut an image into pieces of about ``area`` positions each, halo included: whole rows, or squares where the image is wide.

    Args:
        height: Height of the image, a multiple of ``multiple``.
        width: Width of the image, a multiple of ``multiple``.
        area: Positions of a piece with its halo; exceeded where the smallest piece is larger.
        multiple: Divisor of all borders, and the smallest side of a piece without its halo.
        halo: Neighboring positions to include on each inner side.
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
