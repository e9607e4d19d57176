"""Timer of the interval between two records of a callback."""

from __future__ import annotations

import time


class StepTimer:
    """Count optimizer steps, host seconds and the wait for data of an interval, without pauses such as validation.

    Attributes:
        waited: Seconds from the ends of batches to the starts of the next, where `batch_starts` is called.

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
        self._start = self._idle_since = time.perf_counter()
        self.waited = 0.0

    def pause(self) -> None:
        """Stop counting seconds."""
        self._paused_at = time.perf_counter()

    def resume(self) -> float:
        """Count seconds again; return the length of the pause in seconds."""
        pause = time.perf_counter() - self._paused_at
        self._start += pause
        self._idle_since += pause
        return pause

    def batch_starts(self) -> float:
        """Count the time since the end of the last batch as waiting for data; return the time now."""
        now = time.perf_counter()
        self.waited += now - self._idle_since
        return now

    def ends(self, step: int) -> bool:
        """Return true if the micro-batch that ends now, with ``step`` optimizer steps done, also ends the interval."""
        self._idle_since = time.perf_counter()
        stepped = step != self._last_step
        self._last_step = step
        return stepped and step % self.every_n_steps == 0

    def seconds(self) -> float:
        """Return the seconds since the start of the interval, at least 1e-9."""
        return max(time.perf_counter() - self._start, 1e-9)

    def steps(self) -> int:
        """Return the optimizer steps of the interval until the last micro-batch."""
        return self._last_step - self._step
