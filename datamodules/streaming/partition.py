"""How the line is cut among consumers, now and after their number changed.

There are ``n = world_size × max(1, num_workers)`` consumers. Each epoch's line is cut into n contiguous slices by sample count, which
rotate with the epoch. When n changes, what nobody has read yet of the epochs that were begun becomes one lap of its own, the *remainder*,
cut anew among the new consumers; after it comes the first epoch that nobody had begun. So nothing repeats and nothing is lost. (ours)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Laps:
    """The remainder, as ranges ``(epoch, start, stop)`` of the epochs' lines, and then the epochs from ``first_epoch`` on.

    A lap is named by its epoch; the remainder is lap ``first_epoch - 1``.
    """

    length: int
    remainder: tuple[tuple[int, int, int], ...] = ()
    first_epoch: int = 0

    @property
    def first(self) -> int:
        """The lap that a new consumer begins with."""
        return self.first_epoch - 1 if self.remainder else self.first_epoch

    def ranges(self, lap: int, consumer: int, consumers: int, offset: int = 0) -> Iterator[tuple[int, int, int]]:
        """Yield what a consumer reads of a lap after its first ``offset`` samples, as ranges ``(epoch, start, stop)``."""
        number = (consumer + lap) % consumers
        length = self._length(lap)
        start, stop = number * length // consumers + offset, (number + 1) * length // consumers
        passed = 0
        for epoch, first, last in self.remainder if lap < self.first_epoch else ((lap, 0, length),):
            begin, end = max(first, first + start - passed), min(last, first + stop - passed)
            if begin < end:
                yield epoch, begin, end
            passed += last - first

    def recut(self, positions: list[tuple[int, int]]) -> "Laps":
        """The laps for another number of consumers, from every old consumer's position ``(lap, offset)``."""
        consumers, last = len(positions), max(lap for lap, _ in positions)
        unread = []
        for lap in range(self.first, last + 1):
            for consumer, (reached, offset) in enumerate(positions):
                if reached <= lap:
                    unread += self.ranges(lap, consumer, consumers, offset if reached == lap else 0)
        merged: list[tuple[int, int, int]] = []
        for epoch, start, stop in sorted(unread):
            if merged and merged[-1][0] == epoch and merged[-1][2] == start:
                merged[-1] = (epoch, merged[-1][1], stop)
            else:
                merged.append((epoch, start, stop))
        return Laps(self.length, tuple(merged), last + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"length": self.length, "remainder": [list(part) for part in self.remainder], "first_epoch": self.first_epoch}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Laps":
        """Return the laps of a `state_dict`."""
        return cls(state["length"], tuple((epoch, start, stop) for epoch, start, stop in state["remainder"]), state["first_epoch"])

    def _length(self, lap: int) -> int:
        return sum(stop - start for _, start, stop in self.remainder) if lap < self.first_epoch else self.length
