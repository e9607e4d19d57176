"""Rows of Markdown tables."""

from mimdit.core.markdown import markdown_row


def test_cells_are_joined_and_bars_in_them_escaped():
    assert markdown_row(["a|b", 3, ""]) == r"| a\|b | 3 |  |"
    assert markdown_row(cell for cell in ("one",)) == "| one |"
