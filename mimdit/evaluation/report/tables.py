"""Tables: one for each test set and metric, runs beside published rows, best and second best marked; as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mimdit.core.markdown import markdown_row
from mimdit.evaluation.iqa.metric import metrics_named
from mimdit.evaluation.report.published import Published, plain
from mimdit.evaluation.report.runs import GROUP_MEAN, IMAGE_MEAN, Mean, Run


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        label: Name of the method or run.
        source: Source of its figures.
        means: Figures by column.
        ranked: If true, it takes part in the ranking; degraded inputs do not.
    """

    label: str
    source: str
    means: Mapping[str, Mean]
    ranked: bool = True


@dataclass(frozen=True)
class Table:
    """A table of one metric.

    Attributes:
        test_set: Name of the test set.
        metric: Name of the metric.
        columns: Groups and averages in the order to print.
        titles: Short names of columns.
        lines: The lines from top to bottom.
        lower: If true, lower is better; None if unknown, in which case nothing is ranked.
    """

    test_set: str
    metric: str
    columns: tuple[str, ...]
    titles: Mapping[str, str]
    lines: tuple[Line, ...]
    lower: bool | None

    @property
    def digits(self) -> int:
        """Decimals to print: two where a value reaches 10, else four."""
        values = [mean.value for line in self.lines for mean in line.means.values() if math.isfinite(mean.value)]
        return 2 if max(map(abs, values), default=0.0) >= 10 else 4

    def text(self, line: Line, column: str) -> str:
        """Return a figure as it is printed; "-" where there is none."""
        mean = line.means.get(column)
        return "-" if mean is None or not math.isfinite(mean.value) else f"{mean.value:.{self.digits}f}"

    def place(self, line: Line, column: str) -> int | None:
        """Return the line's place in a column, 1 for the best; figures that are equal as printed share one. None if unranked."""
        texts = [self.text(each, column) for each in self.lines if each.ranked and self.text(each, column) != "-"]
        if not line.ranked or self.lower is None or self.text(line, column) == "-" or len(texts) < 2:
            return None
        return sorted(set(map(float, texts)), reverse=not self.lower).index(float(self.text(line, column))) + 1


def make_tables(runs: Sequence[Run], published: Mapping[str, Published]) -> list[Table]:
    """Return one table for each test set and metric that a run has, in the order of the runs'."""
    keys = dict.fromkeys((test_set, metric) for run in runs for test_set, side, metric in run.means if side == "output")
    return [_table(test_set, metric, runs, published) for test_set, metric in keys]


def _table(test_set: str, metric: str, runs: Sequence[Run], published: Mapping[str, Published]) -> Table:
    known = published.get(plain(test_set))
    lines = []
    if known is not None:
        lines += [Line(row.method, row.source, row.means[metric]) for row in known.rows if metric in row.means]
    with_input = [run for run in runs if (test_set, "input", metric) in run.means]
    if with_input:
        lines.append(Line("degraded input", str(with_input[0].folder), with_input[0].means[test_set, "input", metric], ranked=False))
    for run in runs:
        if (test_set, "output", metric) in run.means:
            lines.append(Line(run.name, str(run.folder), run.means[test_set, "output", metric]))
    titles = {} if known is None else known.titles
    return Table(test_set, metric, _columns(lines, known, published), titles, tuple(lines), lower_is_better(metric))


def _columns(lines: Sequence[Line], known: Published | None, published: Mapping[str, Published]) -> tuple[str, ...]:
    """Return groups in the paper's order, or in FoundIR's where they have its names; then the others, then the averages."""
    present = list(dict.fromkeys(column for line in lines for column in line.means))
    groups = [column for column in present if column not in (GROUP_MEAN, IMAGE_MEAN)]
    order = list((known or published["foundir"]).titles) if known is not None or "foundir" in published else []
    groups = [group for group in order if group in groups] + [group for group in groups if group not in order]
    return (*groups, *(column for column in (GROUP_MEAN, IMAGE_MEAN) if column in present))


def lower_is_better(metric: str) -> bool | None:
    """Return true where lower values of a metric are better; None for an unknown metric, which is not ranked."""
    try:
        return metrics_named([metric])[0].lower_better
    except ValueError:
        return None


def differing_images(tables: Sequence[Table]) -> list[str]:
    """Return a remark for each table whose runs were scored on different numbers of images, so that their figures are not comparable."""
    remarks = []
    for table in tables:
        counts = {line.label: mean.images for line in table.lines if (mean := line.means.get(IMAGE_MEAN)) and mean.images}
        if len(set(counts.values())) > 1:
            counted = ", ".join(f"{label} {number}" for label, number in counts.items())
            remarks.append(f"{table.test_set}, {table.metric}: numbers of images differ ({counted}), so these do not compare.")
    return remarks


_DIRECTIONS = {True: "lower is better", False: "higher is better", None: "not ranked"}


def to_markdown(tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Render tables as Markdown: best in bold, second best underlined; sources and remarks below."""
    parts = []
    for table in tables:
        head = ["", *(table.titles.get(column, column) for column in table.columns)]
        rows = [[line.label, *_marked(table, line, "**{}**", "<u>{}</u>")] for line in table.lines]
        lines = [f"## {table.test_set}: {table.metric} ({_DIRECTIONS[table.lower]})", "", markdown_row(head), "|---" * len(head) + "|"]
        parts.append("\n".join([*lines, *map(markdown_row, rows)]))
    sources = dict.fromkeys(f"- {line.label}: {line.source}" for table in tables for line in table.lines)
    parts.append("Sources:\n\n" + "\n".join(sources))
    if remarks:
        parts.append("Remarks:\n\n" + "\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


def to_latex(tables: Sequence[Table]) -> str:
    """Render each table as a ``tabular`` for ``booktabs``: best in bold, second best underlined, sources as comments."""
    parts = []
    for table in tables:
        head = ["", *(_escaped(table.titles.get(column, column)) for column in table.columns)]
        rows = [[_escaped(line.label), *_marked(table, line, r"\textbf{{{}}}", r"\underline{{{}}}")] for line in table.lines]
        lines = [f"% {table.test_set}: {table.metric}, {_DIRECTIONS[table.lower]}"]
        lines += [f"% {line.label}: {line.source}" for line in table.lines]
        lines += [rf"\begin{{tabular}}{{l{'c' * len(table.columns)}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
        lines += [" & ".join(row) + r" \\" for row in rows]
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """Render one line per figure, unrounded, with its place in its column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["test_set", "metric", "method", "column", "value", "images", "missing", "place", "source"])
    for table in tables:
        for line in table.lines:
            for column in table.columns:
                mean = line.means.get(column)
                if mean is not None and math.isfinite(mean.value):
                    place = table.place(line, column)
                    counts = [mean.images or "", mean.missing or ""]
                    writer.writerow([table.test_set, table.metric, line.label, column, mean.value, *counts, place or "", line.source])
    return file.getvalue()


RENDERERS: dict[str, Callable[..., str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def _marked(table: Table, line: Line, best: str, second: str) -> list[str]:
    forms: dict[int | None, str] = {1: best, 2: second}
    return [forms.get(table.place(line, column), "{}").format(table.text(line, column)) for column in table.columns]


def _escaped(text: str) -> str:
    return "".join(rf"\{letter}" if letter in "&%$#_{}" else letter for letter in text)
