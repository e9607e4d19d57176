"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence

from mimdit.evaluation.report.table import Line, Table

_ARROWS = {True: "lower is better", False: "higher is better", None: "not ranked"}


def to_markdown(tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Best in bold, second best underlined; sources and remarks below."""
    parts = []
    for table in tables:
        head = ["", *(table.titles.get(column, column) for column in table.columns)]
        rows = [[line.label, *_marked(table, line, "**{}**", "<u>{}</u>")] for line in table.lines]
        lines = [f"## {table.benchmark}: {table.metric} ({_ARROWS[table.lower]})", "", _bar(head), "|---" * len(head) + "|"]
        parts.append("\n".join([*lines, *map(_bar, rows)]))
    sources = dict.fromkeys(f"- {line.label}: {line.source}" for table in tables for line in table.lines)
    parts.append("Sources:\n\n" + "\n".join(sources))
    if remarks:
        parts.append("Remarks:\n\n" + "\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


def to_latex(tables: Sequence[Table]) -> str:
    """One ``tabular`` a table, for ``booktabs``; best in bold, second best underlined, sources as comments."""
    parts = []
    for table in tables:
        head = ["", *(_escaped(table.titles.get(column, column)) for column in table.columns)]
        rows = [[_escaped(line.label), *_marked(table, line, r"\textbf{{{}}}", r"\underline{{{}}}")] for line in table.lines]
        lines = [f"% {table.benchmark}: {table.metric}, {_ARROWS[table.lower]}"]
        lines += [f"% {line.label}: {line.source}" for line in table.lines]
        lines += [rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
        lines += [" & ".join(row) + r" \\" for row in rows]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """One line a figure, unrounded, with its place in its column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["benchmark", "metric", "method", "column", "value", "images", "missing", "place", "source"])
    for table in tables:
        for line in table.lines:
            for column in table.columns:
                mean = line.means.get(column)
                if mean is not None and math.isfinite(mean.value):
                    place = table.place(line, column)
                    counts = [mean.images or "", mean.missing or ""]
                    writer.writerow([table.benchmark, table.metric, line.label, column, mean.value, *counts, place or "", line.source])
    return file.getvalue()


RENDERERS: dict[str, Callable[..., str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def _marked(table: Table, line: Line, best: str, second: str) -> list[str]:
    forms = {1: best, 2: second}
    return [forms.get(table.place(line, column), "{}").format(table.text(line, column)) for column in table.columns]


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _escaped(text: str) -> str:
    return "".join(rf"\{letter}" if letter in "&%$#_{}" else letter for letter in text)
