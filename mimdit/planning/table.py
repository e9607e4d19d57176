"""Columns of text of equal width."""

from __future__ import annotations

from collections.abc import Sequence


def columns(titles: Sequence[str] | None, rows: Sequence[Sequence[str]], indent: int = 2) -> str:
    """Return rows as lines whose cells begin at the same places, below their titles, if there are any."""
    lines = [*([titles] if titles is not None else []), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join((" " * indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths))).rstrip() for line in lines)
