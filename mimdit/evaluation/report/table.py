"""Tables: one for each benchmark and metric, runs beside published rows, best and second best marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mimdit.evaluation.report.published import Published, plain
from mimdit.evaluation.report.scores import GROUP_MEAN, IMAGE_MEAN, Mean, Scores


@dataclass(frozen=True)
class Line:
    """A row: whose figures, where they come from, and the figures by column. Those of degraded inputs are not ranked."""

    label: str
    source: str
    means: Mapping[str, Mean]
    ranked: bool = True


@dataclass(frozen=True)
class Table:
    """A table: ``columns`` are groups and averages in the order to print, ``titles`` short names, ``lower`` whether less is better."""

    benchmark: str
    metric: str
    columns: tuple[str, ...]
    titles: Mapping[str, str]
    lines: tuple[Line, ...]
    lower: bool | None

    @property
    def digits(self) -> int:
        """Decimals to print: two where values are tens, else four."""
        values = [mean.value for line in self.lines for mean in line.means.values() if math.isfinite(mean.value)]
        return 2 if max(map(abs, values), default=0.0) >= 10 else 4

    def text(self, line: Line, column: str) -> str:
        """A figure as it is printed; "-" where there is none."""
        mean = line.means.get(column)
        return "-" if mean is None or not math.isfinite(mean.value) else f"{mean.value:.{self.digits}f}"

    def place(self, line: Line, column: str) -> int | None:
        """The line's place in a column, 1 for the best, counted as printed: equal figures share one. None where nothing is to be ranked."""
        texts = [self.text(each, column) for each in self.lines if each.ranked and self.text(each, column) != "-"]
        if not line.ranked or self.lower is None or self.text(line, column) == "-" or len(texts) < 2:
            return None
        return sorted(set(map(float, texts)), reverse=not self.lower).index(float(self.text(line, column))) + 1


def make_tables(runs: Sequence[Scores], published: Mapping[str, Published]) -> list[Table]:
    """One table for each benchmark and metric that a run has, in the order of the runs' own."""
    keys = dict.fromkeys((benchmark, metric) for run in runs for benchmark, side, metric in run.means if side == "output")
    return [_table(benchmark, metric, runs, published) for benchmark, metric in keys]


def _table(benchmark: str, metric: str, runs: Sequence[Scores], published: Mapping[str, Published]) -> Table:
    known = published.get(plain(benchmark))
    lines = []
    if known is not None:
        lines += [Line(row.method, row.source, row.means[metric]) for row in known.rows if metric in row.means]
    with_input = [run for run in runs if (benchmark, "input", metric) in run.means]
    if with_input:
        lines.append(Line("degraded input", str(with_input[0].folder), with_input[0].means[benchmark, "input", metric], ranked=False))
    for run in runs:
        if (benchmark, "output", metric) in run.means:
            lines.append(Line(run.name, str(run.folder), run.means[benchmark, "output", metric]))
    titles = {} if known is None else known.titles
    return Table(benchmark, metric, _columns(lines, known, published), titles, tuple(lines), lower_is_better(metric))


def _columns(lines: Sequence[Line], known: Published | None, published: Mapping[str, Published]) -> tuple[str, ...]:
    """The paper's order of groups, or that of FoundIR where groups are named as its are; others follow as they come."""
    present = list(dict.fromkeys(column for line in lines for column in line.means))
    groups = [column for column in present if column not in (GROUP_MEAN, IMAGE_MEAN)]
    order = list((known or published["foundir"]).titles) if known is not None or "foundir" in published else []
    groups = [group for group in order if group in groups] + [group for group in groups if group not in order]
    return (*groups, *(column for column in (GROUP_MEAN, IMAGE_MEAN) if column in present))


def lower_is_better(metric: str) -> bool | None:
    """As pyiqa says; None for a metric that it does not know, which is not ranked."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS  # here: it takes seconds

    return bool(DEFAULT_CONFIGS[metric].get("lower_better", False)) if metric in DEFAULT_CONFIGS else None


def differing_images(tables: Sequence[Table]) -> list[str]:
    """A remark for each table whose runs were scored on different numbers of images, and whose figures therefore do not compare."""
    remarks = []
    for table in tables:
        counts = {line.label: mean.images for line in table.lines if (mean := line.means.get(IMAGE_MEAN)) and mean.images}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{label} {number}" for label, number in counts.items())
            remarks.append(f"{table.benchmark}, {table.metric}: numbers of images differ ({told}), so these do not compare.")
    return remarks
