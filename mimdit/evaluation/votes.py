"""Votes of a blind comparison of two runs, as JSON lines: a line for the study, then one for each vote. Not in the paper."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mimdit.core.files import replace_when_whole

Side = Literal["a", "b"]
"""One of the two runs."""
Choice = Literal["a", "b", "tie"]
"""The run that was preferred, or neither."""

_TAIL = 1 << 16
"""Bytes in which a file's last line is; a vote takes some hundred."""


@dataclass(frozen=True)
class Study:
    """Two runs that are compared.

    Attributes:
        a: Name of run A.
        b: Name of run B.
        pixels_a: Digest of all images of run A.
        pixels_b: Likewise of run B.
        images: Number of images of each.
        seed: Seed of the images' order and of the sides.
    """

    a: str
    b: str
    pixels_a: str
    pixels_b: str
    images: int
    seed: int = 0

    def check_same(self, other: Study, path: Path) -> None:
        """Check that votes on ``other`` may join the votes in ``path``, which are on this study; names may differ.

        Raises:
            ValueError: The images are others, or exchanged.
        """
        ours, theirs = (self.pixels_a, self.pixels_b), (other.pixels_a, other.pixels_b)
        if ours == theirs[::-1]:
            raise ValueError(f"{path} compares A={self.a} with B={self.b}, not the other way round; exchange the two")
        if ours != theirs or self.images != other.images:
            raise ValueError(
                f"{path} holds votes on {self.images} images of A={self.a} and B={self.b}, whose pixels are not those of A={other.a} and "
                f"B={other.b}; give the same images again, or another file for the votes"
            )


@dataclass(frozen=True)
class Vote:
    """One answer of one voter.

    Attributes:
        image: Name of the image, with its sub-folders and without a suffix.
        choice: The preferred run, or ``tie``.
        left: The run on the left side.
        voter: Name of the voter.
        time: UTC, ISO 8601.
    """

    image: str
    choice: Choice
    left: Side
    voter: str
    time: str

    @property
    def group(self) -> str:
        """The first of the image's sub-folders; empty without one."""
        return self.image.partition("/")[0] if "/" in self.image else ""


@dataclass(frozen=True)
class Votes:
    """The content of a file of votes.

    Attributes:
        study: The two runs that are compared.
        votes: The votes, oldest first; of several by one voter on one image, the last.
        remarks: Sentences on lines that do not count.
    """

    study: Study
    votes: list[Vote]
    remarks: list[str]


def begin_votes(path: Path, study: Study) -> Votes:
    """Create the file of a study's votes, or return the votes that it holds.

    Raises:
        ValueError: The file holds votes on other images, has another seed, or is damaged.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(path) as temporary:
            temporary.write_text(json.dumps(asdict(study)) + "\n", encoding="utf-8")
    found = read_votes(path)
    found.study.check_same(study, path)
    if found.study.seed != study.seed:
        raise ValueError(f"{path} was begun with seed={found.study.seed}, not {study.seed}; give that seed, or another file for the votes")
    return found


def append_vote(path: Path, vote: Vote) -> None:
    """Append a vote and sync the file; what a killed process left of a last line is removed before.

    Raises:
        OSError: The file cannot be written.
    """
    _end_last_line(path)
    line = json.dumps(asdict(vote), ensure_ascii=False) + "\n"
    with open(path, "ab", buffering=0) as file:  # one write: votes of several processes do not mix
        file.write(line.encode())
        os.fsync(file.fileno())


def read_votes(path: Path) -> Votes:
    """Read a file of votes. A last line that is not whole is ignored, with a remark.

    Raises:
        ValueError: The file is no file of votes, or another line is damaged; the message gives its number.
    """
    lines = path.read_bytes().split(b"\n")
    remarks = []
    if lines[-1] and _parsed(lines[-1]) is None:
        remarks.append(f"the last line of {path} is not whole, as a killed process leaves it; it does not count")
        lines[-1] = b""
    study = _record(Study, lines[0])
    if study is None:
        raise ValueError(f"{path} does not begin as a file of votes; name one that mimdit votes collect wrote")
    votes = []
    for number, line in enumerate(lines[1:], start=2):
        if line:
            vote = _record(Vote, line)
            if vote is None or vote.choice not in get_args(Choice) or vote.left not in get_args(Side):
                raise ValueError(f"line {number} of {path} is no vote: {line[:80]!r}; remove it")
            votes.append(vote)
    latest = _latest(votes)
    if len(latest) < len(votes):
        remarks.append(f"{path} has votes that the same voter's on the same image follow ({len(votes) - len(latest)}); the last counts")
    return Votes(study, latest, remarks)


def read_all(paths: Sequence[Path]) -> Votes:
    """Read several files of votes on the same images as one.

    Raises:
        ValueError: Their images differ, or a file is damaged.
    """
    first, *others = [read_votes(path) for path in paths]
    for other, path in zip(others, paths[1:], strict=True):
        other.study.check_same(first.study, path)
    votes = sorted((vote for each in (first, *others) for vote in each.votes), key=lambda vote: vote.time)
    remarks = [remark for each in (first, *others) for remark in each.remarks]
    latest = _latest(votes)
    if len(latest) < len(votes):
        remarks.append(f"some voters' votes on the same image are in several files ({len(votes) - len(latest)}); the last counts")
    return replace(first, votes=latest, remarks=remarks)


def _latest(votes: list[Vote]) -> list[Vote]:
    latest = {(vote.voter, vote.image): vote for vote in votes}
    return [vote for vote in votes if latest[vote.voter, vote.image] is vote]


def _record(kind: type, line: bytes) -> Any:
    """Return the dataclass ``kind`` that a line holds; None if it does not hold one."""
    found = _parsed(line)
    if not isinstance(found, dict) or found.keys() != {field.name for field in fields(kind)}:
        return None
    types = {field.name: int if field.type == "int" else str for field in fields(kind)}
    return kind(**found) if all(type(found[name]) is each for name, each in types.items()) else None


def _parsed(line: bytes) -> Any:
    """Return the JSON of a line; None if it is not whole."""
    try:
        return json.loads(line)
    except ValueError:  # also of UTF-8
        return None


def _end_last_line(path: Path) -> None:
    """Cut off a last line that is not whole; end one that lacks only its newline."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL)
        file.seek(start)
        tail = file.read()
        last = tail[tail.rfind(b"\n") + 1 :]
        if last and _parsed(last) is None:
            file.truncate(size - len(last))
        elif last:
            file.write(b"\n")
