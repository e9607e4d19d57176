"""Timer of the interval between two records of a callback."""

from __future__ import annotations

import time


class StepTimer:
    """Count optimizer steps and host seconds of an interval, without pauses such as validation.

    Args:
        every_n_steps: Length of an interval in optimizer steps.
        owner: Name of the callback, for the error message.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int, owner: str) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} of {owner} must be at least 1 step")
        self.every_n_steps = every_n_steps
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start an interval at optimizer step ``step``."""
        self._step = self._last_step = step
        self._start = time.perf_counter()

    def pause(self) -> None:
        """Stop counting seconds."""
        self._paused_at = time.perf_counter()

    def resume(self) -> float:
        """Count seconds again; return the length of the pause in seconds."""
        pause = time.perf_counter() - self._paused_at
        self._start += pause
        return pause

    def ends(self, step: int) -> bool:
        """Return true if the micro-batch that ended with ``step`` optimizer steps done also ended the interval."""
        stepped = step != self._last_step
        self._last_step = step
        return stepped and step % self.every_n_steps == 0

    def seconds(self) -> float:
        """Return the seconds since the start of the interval, at least 1e-9."""
        return max(time.perf_counter() - self._start, 1e-9)

    def steps(self) -> int:
        """Return the optimizer steps of the interval until the last micro-batch."""
        return self._last_step - self._step
