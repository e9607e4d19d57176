"""A blind comparison in progress: which pair a voter sees next, which run is on which side, and where the vote goes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch

from mimdit.commands.paired_images import Pair
from mimdit.core.rng import keyed_generator
from mimdit.evaluation.votes import Choice, Side, Study, Vote, append_vote, begin_votes

Answer = Literal["left", "right", "neither"]
"""The better side, or no difference."""

_LONGEST_NAME = 60


class Ballot:
    """Pairs of images to vote on, whose votes are in a file.

    Order and sides are drawn by seed, voter and image alone, so they are the same after an interruption.

    Args:
        pairs: The pairs.
        path: File of the votes; it is created, or continued.
        study: The two runs that are compared.

    Raises:
        ValueError: The file holds votes on other images, or is damaged.
    """

    def __init__(self, pairs: Sequence[Pair], path: Path, study: Study) -> None:
        found = begin_votes(path, study)
        self.path, self.seed, self.remarks = path, study.seed, found.remarks
        self._pairs = {pair.name: pair for pair in pairs}
        self._done: dict[str, set[str]] = {}
        for vote in found.votes:
            self._done.setdefault(vote.voter, set()).add(vote.image)
        self._one_at_a_time = threading.Lock()

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._pairs)

    def number_done(self, voter: str) -> int:
        """Return the number of pairs that a voter has voted on."""
        return len(self._done.get(voter, ()))

    def next_pair(self, voter: str) -> Pair | None:
        """Return the pair that a voter sees next, in a random order of the voter's own; None at the end."""
        left = self._pairs.keys() - self._done.get(voter, set())
        return self._pairs[min(left, key=lambda name: (self._draw("order", voter, name), name))] if left else None

    def left_run(self, voter: str, image: str) -> Side:
        """Return the run whose image is on the left for a voter."""
        return "a" if self._draw("side", voter, image) < 0.5 else "b"

    def sides(self, voter: str, pair: Pair) -> tuple[Path, Path]:
        """Return the files of the left and of the right image."""
        return (pair.a, pair.b) if self.left_run(voter, pair.name) == "a" else (pair.b, pair.a)

    def cast(self, voter: str, image: str, answer: Answer) -> bool:
        """Write a vote to the file; return false, and write nothing, if the voter has voted on this image before.

        Raises:
            OSError: The file cannot be written.
        """
        left = self.left_run(voter, image)
        right: Side = "b" if left == "a" else "a"
        choices: dict[Answer, Choice] = {"left": left, "right": right, "neither": "tie"}
        with self._one_at_a_time:
            done = self._done.setdefault(voter, set())
            if image in done:
                return False
            append_vote(self.path, Vote(image, choices[answer], left, voter, datetime.now(UTC).isoformat(timespec="seconds")))
            done.add(image)
            return True

    def _draw(self, what: str, voter: str, image: str) -> float:
        """Return a number in [0, 1) that depends on seed, voter and image alone."""
        return float(torch.rand((), generator=keyed_generator("votes", what, self.seed, voter, image)))


def voter_named(name: str) -> str:
    """Return a voter's name without surrounding spaces.

    Raises:
        ValueError: Nothing is left, or it is too long.
    """
    stripped = " ".join(name.split())
    if not 0 < len(stripped) <= _LONGEST_NAME:
        raise ValueError(f"a voter's name has 1 to {_LONGEST_NAME} characters, not {len(stripped)}; give another")
    return stripped
