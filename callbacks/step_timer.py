"""A span: the stretch of training between two records of a callback."""

from __future__ import annotations

import time


class Span:
    """Optimiser steps and seconds since its beginning, without pauses such as validation. Times are the host's.

    Args:
        every_n_steps: Optimiser steps after which it is over.
        owner: Who asks, for the error.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int, owner: str) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} of {owner} must be at least 1 step")
        self.every_n_steps = every_n_steps
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start anew at optimiser step ``step``."""
        self._step = self._last_step = step
        self._start = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock."""
        self._paused_at = time.perf_counter()

    def resume(self) -> float:
        """Let it go on; the seconds that it stood still."""
        pause = time.perf_counter() - self._paused_at
        self._start += pause
        return pause

    def ends(self, step: int) -> bool:
        """Whether this micro-batch, after which ``step`` optimiser steps are done, made the step that is the span's last."""
        stepped = step != self._last_step
        self._last_step = step
        return stepped and step % self.every_n_steps == 0

    def seconds(self) -> float:
        """Seconds until now, never 0."""
        return max(time.perf_counter() - self._start, 1e-9)

    def steps(self) -> int:
        """Optimiser steps until the last micro-batch."""
        return self._last_step - self._step
