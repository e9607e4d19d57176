"""Statistics of a blind comparison of two runs by votes. Not in the paper.

In a two-alternative forced choice an observer picks the better of two images, as for the data of LPIPS (Zhang et al., CVPR 2018, arXiv
1801.03924). With the third answer "no difference" it is a relaxed forced choice, which costs observers less and answers better (Jenadeleh
et al., 2023, arXiv 2305.00220). Such answers are ties: they are counted, and left out of share, interval and test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from mimdit.core.markdown import markdown_row
from mimdit.evaluation.votes import Choice, Vote, Votes

LEVEL = 0.95
"""Coverage of intervals."""


@dataclass(frozen=True)
class Preference:
    """Answers counted, seen from run A.

    Attributes:
        name: Name of the count, such as ``all votes``.
        wins: Answers for A.
        losses: Answers for B.
        ties: Answers "no difference".
    """

    name: str
    wins: int
    losses: int
    ties: int

    @property
    def decided(self) -> int:
        """Number of answers that are not ties."""
        return self.wins + self.losses

    @property
    def share(self) -> float | None:
        """A's share of the decided answers; None without any."""
        return self.wins / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval of the share (Wilson, 1927), at `LEVEL`; None without decided answers."""
        if not self.decided:
            return None
        low, high = binomtest(self.wins, self.decided).proportion_ci(LEVEL, method="wilson")
        return float(low), float(high)

    @property
    def p_value(self) -> float | None:
        """Two-sided p value of the exact binomial sign test, whose hypothesis is a share of one half; None without decided answers."""
        return float(binomtest(self.wins, self.decided).pvalue) if self.decided else None

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers by name."""
        low, high = self.interval or (None, None)
        counts = {"name": self.name, "wins": self.wins, "losses": self.losses, "ties": self.ties}
        return counts | {"share": self.share, "low": low, "high": high, "p_value": self.p_value}


def preferences(votes: Iterable[Vote]) -> list[Preference]:
    """Count all votes; then, where there are any, those of each group, and the images by the majority of their voters.

    Votes of several voters on one image are not independent, as interval and test assume; the images' majorities are.
    """
    votes = list(votes)
    by_group: dict[str, list[Choice]] = {}
    by_image: dict[str, list[Choice]] = {}
    for vote in sorted(votes, key=lambda vote: vote.image):
        by_group.setdefault(vote.group, []).append(vote.choice)
        by_image.setdefault(vote.image, []).append(vote.choice)
    counted = [_count("all votes", [vote.choice for vote in votes])]
    if any(by_group):
        counted += [_count(group or "(no group)", choices) for group, choices in by_group.items()]
    if any(len(choices) > 1 for choices in by_image.values()):
        counted.append(_count("images, by majority", [_majority(choices) for choices in by_image.values()]))
    return counted


def left_preference(votes: Iterable[Vote]) -> Preference:
    """Count the decided votes for the left side as wins: a share far from one half shows a habit of the voters, not a difference."""
    sides = [vote.choice == vote.left for vote in votes if vote.choice != "tie"]
    return Preference("left side", sum(sides), len(sides) - sum(sides), 0)


def preference_table(found: Votes) -> str:
    """Return Markdown: the runs, what was counted, a row for each count, and the left side's share."""
    voters, images = ({getattr(vote, name) for vote in found.votes} for name in ("voter", "image"))
    left = left_preference(found.votes)
    lines = [
        f"A = {found.study.a}, B = {found.study.b}",
        f"votes: {len(found.votes)}, voters: {len(voters)}, images: {len(images)} of {found.study.images}",
        "",
        f"| | A is better | B is better | no difference | A's share of decided votes [{100 * LEVEL:.0f} % Wilson] | p, sign test |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for each in preferences(found.votes):
        lines.append(markdown_row([each.name, each.wins, each.losses, each.ties, _share(each), _p_value(each)]))
    lines += ["", f"the left side was preferred in {left.wins} of {left.decided} decided votes (p {_p_value(left)})"]
    return "\n".join(lines) + "\n"


def as_json(found: Votes) -> dict[str, Any]:
    """Return the runs and all counts as JSON's types."""
    names = sorted({vote.voter for vote in found.votes})
    return {
        "a": found.study.a,
        "b": found.study.b,
        "images": found.study.images,
        "voters": names,
        "level": LEVEL,
        "interval": "wilson",
        "preferences": [each.as_dict() for each in preferences(found.votes)],
        "left": left_preference(found.votes).as_dict(),
        "remarks": found.remarks,
    }


def _count(name: str, choices: Iterable[Choice]) -> Preference:
    counts = Counter(choices)
    return Preference(name, counts["a"], counts["b"], counts["tie"])


def _majority(choices: Iterable[Choice]) -> Choice:
    """Return the run with more votes of an image; ``tie`` if both have as many."""
    counts = Counter(choices)
    return "a" if counts["a"] > counts["b"] else "b" if counts["b"] > counts["a"] else "tie"


def _share(counted: Preference) -> str:
    if counted.share is None or counted.interval is None:
        return "-"
    low, high = counted.interval
    return f"{100 * counted.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _p_value(counted: Preference) -> str:
    return "-" if counted.p_value is None else f"{counted.p_value:.3g}"
