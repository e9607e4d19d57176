"""What a check found, and how the findings of many ranks become a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    FAILED = 2


_WORDS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILED: "FAILED"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: its name, how bad it is, what was found, and what to do about it (empty where it is ok)."""

    check: str
    level: Level
    found: str
    remedy: str = ""

    @classmethod
    def ok(cls, check: str, found: str) -> Finding:
        """Nothing to mend."""
        return cls(check, Level.OK, found)

    @classmethod
    def warning(cls, check: str, found: str, remedy: str) -> Finding:
        """A run will start, and may be slow or end early."""
        return cls(check, Level.WARNING, found, remedy)

    @classmethod
    def failed(cls, check: str, found: str, remedy: str) -> Finding:
        """A run will not start, or will go wrong."""
        return cls(check, Level.FAILED, found, remedy)


def merged(by_rank: Sequence[Sequence[Finding]], names: Sequence[str]) -> list[Finding]:
    """One finding for each check and level over all ranks, in the order in which the checks first appear.

    Ranks that found the same are one line. Of those that are well but found different things the first speaks; of those that are not,
    each different finding is kept, with the ranks that made it. A line without a rank is all ranks'.

    Args:
        by_rank: What each rank found.
        names: What to call each rank, such as ``rank 3 (node2)``.
    """
    lines: dict[tuple[str, Level, str], tuple[Finding, list[str]]] = {}
    order = list(dict.fromkeys(finding.check for findings in by_rank for finding in findings))
    for name, findings in zip(names, by_rank, strict=True):
        for finding in findings:
            key = (finding.check, finding.level, "" if finding.level is Level.OK else finding.found)
            lines.setdefault(key, (finding, []))[1].append(name)
    result = []
    for finding, who in sorted(lines.values(), key=lambda entry: (order.index(entry[0].check), entry[0].level)):
        told = finding.found
        if len(who) < len(by_rank):
            told += f" ({', '.join(who[:4])}{f' and {len(who) - 4} more' if len(who) > 4 else ''})"
        elif len(who) > 1 and finding.level is not Level.OK:
            told += f" (all {len(who)} ranks)"
        result.append(Finding(finding.check, finding.level, told, finding.remedy))
    return result


def render(findings: Sequence[Finding]) -> str:
    """One line for each finding."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        lines.append(f"{_WORDS[finding.level]:<8} {finding.check:<{width}}  {finding.found}{remedy}")
    return "\n".join(lines)
