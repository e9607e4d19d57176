"""Partition of the sample order among consumers, now and after their number changed. Not in the paper.

There are ``n = world_size × max(1, num_workers)`` consumers, which read the order in passes. Usually a pass is one epoch, cut into n
contiguous slices by sample count, which rotate with the epoch. When n changes, the unread samples of all epochs that were begun form one
pass of their own, the *remainder*, which is cut anew among the new consumers; the first epoch that no consumer had begun comes after it.
So no sample repeats and none is lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Partition:
    """The remainder, as ranges ``(epoch, start, stop)`` of the epochs' orders, followed by the epochs from ``first_epoch`` on.

    A pass has the number of its epoch; the remainder is pass ``first_epoch - 1``.
    """

    length: int
    remainder: tuple[tuple[int, int, int], ...] = ()
    first_epoch: int = 0

    @property
    def first(self) -> int:
        """First pass of a new consumer."""
        return self.first_epoch - 1 if self.remainder else self.first_epoch

    def ranges(self, pass_number: int, consumer: int, consumers: int, offset: int = 0) -> Iterator[tuple[int, int, int]]:
        """Yield a consumer's slice of a pass after its first ``offset`` samples, as ranges ``(epoch, start, stop)``."""
        place = (consumer + pass_number) % consumers
        length = self._length(pass_number)
        start, stop = place * length // consumers + offset, (place + 1) * length // consumers
        before = 0
        for epoch, first, last in self.remainder if pass_number < self.first_epoch else ((pass_number, 0, length),):
            begin, end = max(first, first + start - before), min(last, first + stop - before)
            if begin < end:
                yield epoch, begin, end
            before += last - first

    def reached(self, position: tuple[int, int], consumer: int, consumers: int, ahead: int) -> int:
        """Return the pass that a consumer at ``position``, (pass, offset), is in after ``ahead`` more samples."""
        pass_number, offset = position
        while True:
            place, length = (consumer + pass_number) % consumers, self._length(pass_number)
            left = (place + 1) * length // consumers - place * length // consumers - offset
            if ahead <= left:
                return pass_number
            pass_number, offset, ahead = pass_number + 1, 0, ahead - left

    def recut(self, positions: list[tuple[int, int]]) -> "Partition":
        """Return the partition for another number of consumers, from every old consumer's position ``(pass, offset)``."""
        consumers, last = len(positions), max(reached for reached, _ in positions)
        unread = []
        for pass_number in range(self.first, last + 1):
            for consumer, (reached, offset) in enumerate(positions):
                if reached <= pass_number:
                    unread += self.ranges(pass_number, consumer, consumers, offset if reached == pass_number else 0)
        merged: list[tuple[int, int, int]] = []
        for epoch, start, stop in sorted(unread):
            if merged and merged[-1][0] == epoch and merged[-1][2] == start:
                merged[-1] = (epoch, merged[-1][1], stop)
            else:
                merged.append((epoch, start, stop))
        return Partition(self.length, tuple(merged), last + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"length": self.length, "remainder": [list(part) for part in self.remainder], "first_epoch": self.first_epoch}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Partition":
        """Return the partition of a `state_dict`."""
        return cls(state["length"], tuple((epoch, start, stop) for epoch, start, stop in state["remainder"]), state["first_epoch"])

    def _length(self, pass_number: int) -> int:
        return sum(stop - start for _, start, stop in self.remainder) if pass_number < self.first_epoch else self.length


class Progress:
    """Positions of one rank's consumers after the last completed optimizer step.

    A batch counts when its optimizer step is complete and is pending until then, so that a checkpoint contains neither prefetched batches
    nor half an accumulation window.

    Args:
        consumers: Number of consumers of the rank.
        first_pass: Pass that they begin with.
    """

    def __init__(self, consumers: int, first_pass: int = 0) -> None:
        self.positions: list[tuple[int, int]] = [(first_pass, 0)] * consumers
        """(pass, offset in its slice) of each consumer."""
        self.next_consumer = 0
        """Consumer of the next batch."""
        self._pending: list[list[int]] = []

    def deliver(self, position: list[int]) -> None:
        """Record the position in a batch: [consumer over all ranks, pass, offset]."""
        self._pending.append(position)

    def commit(self) -> None:
        """Count all pending batches: their optimizer step is complete."""
        for consumer, pass_number, offset in self._pending:
            local = int(consumer) % len(self.positions)
            self.positions[local] = (int(pass_number), int(offset))
            self.next_consumer = (local + 1) % len(self.positions)
        self.forget_pending()

    def forget_pending(self) -> None:
        """Drop the pending batches."""
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the counted positions as plain lists and integers."""
        return {"turn": self.next_consumer, "positions": [list(position) for position in self.positions]}  # names in checkpoints

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the positions of a `state_dict`."""
        assert len(state["positions"]) == len(self.positions)
        self.next_consumer = state["turn"]
        self.positions = [(pass_number, offset) for pass_number, offset in state["positions"]]
        self.forget_pending()
