"""The results as a table for people."""

from __future__ import annotations

from typing import Any

DASH = "-"
"""What stands where there is no score."""


def table(name: str, summary: dict[str, Any]) -> str:
    """A benchmark of `mimdit.evaluation.iqa.summary.summarize`: a line for the input and one for the output of each mean and each group."""
    metrics = list(summary["mean_of_images"]["output"])
    lines = {"mean of images": summary["mean_of_images"], "mean of groups": summary["mean_of_groups"]}
    lines |= {part: summary[part] for part in ("isolated", "coupled") if part in summary}
    lines |= summary["groups"] if len(summary["groups"]) > 1 else {}
    label, widths = max(map(len, [name, *lines])), [max(9, len(metric)) for metric in metrics]
    cells = [f"{name:<{label}} {'images':>6}       ", *(f"{metric:>{width}}" for metric, width in zip(metrics, widths))]
    rows = ["  ".join(cells)]
    for line, means in lines.items():
        for side in ("input", "output"):
            first = f"{line:<{label}} {means['images']:>6}" if side == "input" else " " * (label + 7)
            numbers = (f"{_number(means[side][metric]):>{width}}" for metric, width in zip(metrics, widths))
            rows.append("  ".join([f"{first} {side:<6}", *numbers]))
    if summary["left_out"]:
        rows.append(f"in no mean, as their inputs equal their truths: {', '.join(summary['left_out'])}")
    for metric, reasons in summary["notes"].items():
        rows += [f"{metric}: {count} without a score: {reason}" for reason, count in reasons.items()]
    return "\n".join(rows)


def _number(value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.3f}"
