"""Which checkpoints stay: the newest, the best, and as many as a quota has room for."""

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
    """What may stay of checkpoints.

    Args:
        newest: How many of those written last; -1 for all.
        best: How many with the best scores, beside those.
        mode: ``max`` or ``min``, which scores are good.
        most_bytes: Of all together.
    """

    newest: int
    best: int = 0
    mode: str = "max"
    most_bytes: float = math.inf

    def superfluous(self, names: list[str], sizes: dict[str, int], scores: dict[str, float], room: int = 0) -> list[str]:
        """Of ``names`` in the order of writing those to remove, so that ``room`` bytes of the quota are free; never the newest.

        For the quota the oldest go first, and those among the best last, the worst of them first.
        """
        best = self.ranked(scores)[: self.best]
        newest = names if self.newest == -1 else names[-self.newest :]
        stay = [name for name in names if name in newest or name in best]
        used = sum(sizes[name] for name in stay) + room
        for name in [name for name in stay if name not in best] + best[::-1]:
            if used > self.most_bytes and name != names[-1]:
                stay.remove(name)
                used -= sizes[name]
        return [name for name in names if name not in stay]

    def ranked(self, scores: dict[str, float]) -> list[str]:
        """Names with a finite score, best first."""
        finite = [name for name, score in scores.items() if math.isfinite(score)]
        return sorted(finite, key=scores.__getitem__, reverse=self.mode == "max")


class Shelf:
    """The checkpoints of a run in a folder, in the order of writing, with their scores: what is not on it is never removed.

    It is written to a small file in the folder before a checkpoint is, so a run that was killed finds every one of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scores: dict[str, float | None] = {}
        if (folder / RECORD).is_file():
            listed = json.loads((folder / RECORD).read_text())
            self._scores = {name: score for name, score in listed.items() if steps_of(folder / name) is not None}

    def announce(self, name: str) -> None:
        """Know of one that is about to be written. An older one of that name keeps its place until it is replaced."""
        self._scores.setdefault(name, None)
        self._write()

    def written(self, name: str) -> None:
        """Put one that is complete last, without a score."""
        self._scores.pop(name, None)
        self._scores[name] = None
        self._write()

    def score(self, name: str, score: float) -> None:
        """Say how good one is."""
        self._scores[name] = score
        self._write()

    def names(self) -> list[str]:
        """Those that exist, in the order of writing."""
        return [name for name in self._scores if (self.folder / name).exists()]

    def sizes(self) -> dict[str, int]:
        """Bytes of those that exist."""
        return {name: size_of(self.folder / name) for name in self.names()}

    def scores(self) -> dict[str, float]:
        """Scores of those that exist and have one."""
        return {name: self._scores[name] for name in self.names() if self._scores[name] is not None}

    def forget(self, name: str) -> None:
        """Take one off; its file is the caller's."""
        del self._scores[name]

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(self.folder / RECORD) as path:
            path.write_text(json.dumps(self._scores, indent=2) + "\n")
