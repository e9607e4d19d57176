"""Findings of checks, and the merging of many ranks' findings into a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """Severity of a finding."""

    OK = 0
    WARNING = 1
    FAILED = 2


_WORDS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILED: "FAILED"}


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        check: Name of the check.
        level: Severity.
        found: Description of the outcome.
        remedy: Recommended action; empty if the level is OK.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""

    @classmethod
    def ok(cls, check: str, found: str) -> Finding:
        """Return a finding without a problem."""
        return cls(check, Level.OK, found)

    @classmethod
    def warning(cls, check: str, found: str, remedy: str) -> Finding:
        """Return a finding with which a run starts, but may be slow or end early."""
        return cls(check, Level.WARNING, found, remedy)

    @classmethod
    def failed(cls, check: str, found: str, remedy: str) -> Finding:
        """Return a finding with which a run cannot start or goes wrong."""
        return cls(check, Level.FAILED, found, remedy)


def merged(by_rank: Sequence[Sequence[Finding]], names: Sequence[str]) -> list[Finding]:
    """Merge the findings of all ranks, in the order in which the checks first appear.

    Equal findings become one. Of different findings at level OK only the first is kept; at other levels all are kept, with the ranks that
    made them. A finding without ranks holds for all of them.

    Args:
        by_rank: Findings of each rank.
        names: Name of each rank, such as ``rank 3 (node2)``.
    """
    lines: dict[tuple[str, Level, str], tuple[Finding, list[str]]] = {}
    order = list(dict.fromkeys(finding.check for findings in by_rank for finding in findings))
    for name, findings in zip(names, by_rank, strict=True):
        for finding in findings:
            key = (finding.check, finding.level, "" if finding.level is Level.OK else finding.found)
            lines.setdefault(key, (finding, []))[1].append(name)
    result = []
    for finding, who in sorted(lines.values(), key=lambda entry: (order.index(entry[0].check), entry[0].level)):
        text = finding.found
        if len(who) < len(by_rank):
            text += f" ({', '.join(who[:4])}{f' and {len(who) - 4} more' if len(who) > 4 else ''})"
        elif len(who) > 1 and finding.level is not Level.OK:
            text += f" (all {len(who)} ranks)"
        result.append(Finding(finding.check, finding.level, text, finding.remedy))
    return result


def render(findings: Sequence[Finding]) -> str:
    """Return one line of text per finding."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        lines.append(f"{_WORDS[finding.level]:<8} {finding.check:<{width}}  {finding.found}{remedy}")
    return "\n".join(lines)
