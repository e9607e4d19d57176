"""Retention of checkpoints: the newest, the best, and as many as a quota allows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from mimdit.core.files import replace_when_whole
from mimdit.distributed.checkpoint_files import size_of, steps_of

RECORD = "kept.json"


@dataclass(frozen=True)
class Retention:
    """Rule for which checkpoints to keep.

    Args:
        newest: Number of newest checkpoints to keep; -1 for all.
        best: Number of checkpoints with the best scores to keep in addition.
        mode: ``max`` if higher scores are better, ``min`` if lower ones are.
        max_bytes: Limit on the total size in bytes.
    """

    newest: int
    best: int = 0
    mode: str = "max"
    max_bytes: float = math.inf

    def superfluous(self, names: list[str], sizes: dict[str, int], scores: dict[str, float], room: int = 0) -> list[str]:
        """Return the names to remove so that ``room`` bytes of the quota are free; never the newest.

        To meet the quota, the oldest are removed first, then the best ones, worst first.

        Args:
            names: All checkpoints in the order of writing.
            sizes: Bytes of each.
            scores: Scores of those that have one.
            room: Bytes to leave free.
        """
        best = self.ranked(scores)[: self.best]
        newest = names if self.newest == -1 else names[-self.newest :]
        stay = [name for name in names if name in newest or name in best]
        used = sum(sizes[name] for name in stay) + room
        for name in [name for name in stay if name not in best] + best[::-1]:
            if used > self.max_bytes and name != names[-1]:
                stay.remove(name)
                used -= sizes[name]
        return [name for name in names if name not in stay]

    def ranked(self, scores: dict[str, float]) -> list[str]:
        """Return the names with a finite score, best first."""
        finite = [name for name, score in scores.items() if math.isfinite(score)]
        return sorted(finite, key=scores.__getitem__, reverse=self.mode == "max")


class CheckpointRecord:
    """Record of a run's checkpoints in a folder, in the order of writing, with their scores. Other checkpoints are never removed.

    The record is a small file in the folder, written before each checkpoint, so a restarted run finds every checkpoint of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scores: dict[str, float | None] = {}
        if (folder / RECORD).is_file():
            listed = json.loads((folder / RECORD).read_text())
            self._scores = {name: score for name, score in listed.items() if steps_of(folder / name) is not None}

    def begin(self, name: str) -> None:
        """Record a checkpoint about to be written; an older one of that name keeps its position until it is replaced."""
        self._scores.setdefault(name, None)
        self._write()

    def complete(self, name: str) -> None:
        """Record a complete checkpoint as the newest, without a score."""
        self._scores.pop(name, None)
        self._scores[name] = None
        self._write()

    def set_score(self, name: str, score: float) -> None:
        """Record the score of a checkpoint."""
        self._scores[name] = score
        self._write()

    def names(self) -> list[str]:
        """Return the checkpoints that exist, in the order of writing."""
        return [name for name in self._scores if (self.folder / name).exists()]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each checkpoint that exists."""
        return {name: size_of(self.folder / name) for name in self.names()}

    def scores(self) -> dict[str, float]:
        """Return the scores of the checkpoints that exist and have one."""
        return {name: score for name in self.names() if (score := self._scores[name]) is not None}

    def remove(self, name: str) -> None:
        """Drop a checkpoint from the record; the caller removes the file."""
        del self._scores[name]

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(self.folder / RECORD) as path:
            path.write_text(json.dumps(self._scores, indent=2) + "\n")
