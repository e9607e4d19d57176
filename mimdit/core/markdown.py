"""Rows of Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_row(cells: Iterable[object]) -> str:
    """Return a row of a Markdown table; a bar in a cell is escaped, so that it does not end the cell."""
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"
