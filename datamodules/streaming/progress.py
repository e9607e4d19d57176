"""What a rank's consumers have delivered to completed optimizer steps: the state of the training stream."""

from typing import Any


class Progress:
    """Positions of the consumers of one rank.

    A batch counts when the step it belongs to is complete: until then it waits, so neither what workers prefetched nor half an
    accumulation window enters a checkpoint.

    Args:
        consumers: How many consumers the rank has.
        lap: The lap that they begin with.
    """

    def __init__(self, consumers: int, lap: int = 0) -> None:
        self.positions: list[tuple[int, int]] = [(lap, 0)] * consumers
        """(lap, offset) of each consumer; see `datamodules.streaming.partition`."""
        self.turn = 0
        """The consumer whose batch comes next."""
        self._pending: list[list[int]] = []

    def deliver(self, position: list[int]) -> None:
        """Note the position that a batch carries: [consumer over all ranks, lap, offset]."""
        self._pending.append(position)

    def commit(self) -> None:
        """Count everything noted: its optimizer step is complete."""
        for consumer, lap, offset in self._pending:
            local = int(consumer) % len(self.positions)
            self.positions[local] = (int(lap), int(offset))
            self.turn = (local + 1) % len(self.positions)
        self.forget_pending()

    def forget_pending(self) -> None:
        """Drop what was noted but not counted."""
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the counted positions as plain lists and integers."""
        return {"turn": self.turn, "positions": [list(position) for position in self.positions]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the positions of `state_dict`."""
        assert len(state["positions"]) == len(self.positions)
        self.turn = state["turn"]
        self.positions = [(lap, offset) for lap, offset in state["positions"]]
        self.forget_pending()
