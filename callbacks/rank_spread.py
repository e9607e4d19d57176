"""RankSpread: log how the ranks differ in speed, and which rank is slowest."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from callbacks.loggers import log_scalars
from callbacks.step_timer import StepTimer

_NAMES = ("seconds_per_step", "data_wait", "seconds_to_loss")


class RankSpread(L.Callback):
    """Log minimum, mean and maximum of the step times over the ranks, and the slowest rank.

    Tags, each with ``_min``, ``_mean`` and ``_max``: ``ranks/seconds_per_step``; ``ranks/data_wait``, the fraction of that time in 0..1
    spent waiting for a batch; ``ranks/seconds_to_loss``, from batch to loss, summed over the micro-batches of a step. ``ranks/slowest`` is
    the rank that takes longest for batch and loss together; ``ranks/behind`` is how many seconds per step it exceeds the mean.

    Ranks wait for one another in the backward pass, so their steps take equally long; a slow rank is visible only in the time before it.
    Under FSDP2 they also wait in the forward pass, and only the wait for data differs. Times from batch to loss are the device's on CUDA,
    else the host's; validation is excluded. Not in the paper.

    Args:
        every_n_steps: Optimizer steps between two records, over which each averages.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self._timer = StepTimer(every_n_steps, "RankSpread")
        self._begin(0)

    def _begin(self, step: int) -> None:
        """Start an interval."""
        self._timer.begin(step)
        self._computed = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer."""
        self._begin(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the end of the last batch as waiting for data."""
        self._batch_since, self._batch_mark = self._timer.batch_starts(), _mark(trainer.strategy.root_device)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """Stop counting; from here on ranks wait for one another."""
        mark = _mark(trainer.strategy.root_device)
        if mark is None or self._batch_mark is None:
            self._computed += time.perf_counter() - self._batch_since
        else:
            self._events.append((self._batch_mark, mark))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Compare the ranks and log at the end of an interval."""
        step = trainer.global_step
        if not self._timer.ends(step):
            return
        seconds, steps = self._timer.seconds(), max(1, self._timer.steps())
        if self._events:
            self._events[-1][1].synchronize()  # passed long ago: the backward pass of the step follows it
            self._computed += sum(start.elapsed_time(end) for start, end in self._events) / 1000
        mine = [seconds / steps, self._timer.waited / seconds, self._computed / steps]
        # [ranks, 3]
        everyone = trainer.strategy.all_gather(torch.tensor(mine, device=trainer.strategy.root_device)).reshape(-1, len(mine)).cpu()
        log_scalars(trainer, rank_statistics(everyone), step)
        self._begin(step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause the timer."""
        self._timer.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude the validation from the interval and from the wait."""
        self._timer.resume()


def rank_statistics(times: torch.Tensor) -> dict[str, float]:
    """Return the values of all tags.

    Args:
        times: ``[ranks, 3]``: seconds per step, fraction of waiting for data in 0..1, seconds from batch to loss.
    """
    scalars = {}
    for column, name in enumerate(_NAMES):
        values = times[:, column]
        scalars |= {f"ranks/{name}_min": float(values.min()), f"ranks/{name}_mean": float(values.mean())}
        scalars[f"ranks/{name}_max"] = float(values.max())
    own = times[:, 0] * times[:, 1] + times[:, 2]
    return scalars | {"ranks/slowest": float(own.argmax()), "ranks/behind": float(own.max() - own.mean())}


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """Record an event in the stream of a CUDA device; return None on other devices, where the host's clock is used."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
