"""RankSpread: how the ranks of a run differ, and which of them the others wait for."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch

from callbacks.loggers import log_scalars
from callbacks.step_timer import Span

_NAMES = ("seconds_per_step", "data_wait", "seconds_to_loss")


class RankSpread(L.Callback):
    """Log minimum, mean and maximum over the ranks of how their steps' time goes, and the number of the slowest rank.

    Tags, each with ``_min``, ``_mean`` and ``_max``: ``ranks/seconds_per_step``; ``ranks/data_wait``, the share of it in 0..1 that a
    rank waited for its batch; ``ranks/seconds_to_loss``, from batch to loss, of all micro-batches of a step. ``ranks/slowest`` is the rank
    that takes longest for batch and loss together, ``ranks/behind`` how many seconds a step it is behind the mean.

    Ranks wait for one another in the backward pass, so their steps take equally long whoever is slow: it shows in what comes before.
    Under FSDP2 they also wait in the forward pass, and only the data's part tells them apart there. Times are the device's from batch to
    loss on CUDA, else the host's; validation is left out. (ours)

    Args:
        every_n_steps: Optimiser steps between two records, and the span that each averages over.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self._span = Span(every_n_steps, "RankSpread")
        self._begin(0)

    def _begin(self, step: int) -> None:
        """Start a new span."""
        self._span.begin(step)
        self._idle_since = time.perf_counter()
        self._waited, self._computed = 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begin(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there: what passed since the last one ended was waiting."""
        now = time.perf_counter()
        self._waited += now - self._idle_since
        self._batch_since = _mark(trainer.strategy.root_device) or now

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """The loss is there; from here on ranks wait for one another."""
        mark = _mark(trainer.strategy.root_device)
        if mark is None:
            self._computed += time.perf_counter() - self._batch_since
        else:
            self._events.append((self._batch_since, mark))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """At the end of a span compare the ranks and log."""
        self._idle_since = time.perf_counter()
        step = trainer.global_step
        if not self._span.ends(step):
            return
        seconds, steps = self._span.seconds(), max(1, self._span.steps())
        if self._events:
            self._events[-1][1].synchronize()  # long past, as the step's backward follows it
            self._computed += sum(start.elapsed_time(end) for start, end in self._events) / 1000
        mine = [seconds / steps, self._waited / seconds, self._computed / steps]
        # [ranks, 3]
        everyone = trainer.strategy.all_gather(torch.tensor(mine, device=trainer.strategy.root_device)).reshape(-1, len(mine)).cpu()
        log_scalars(trainer, spread(everyone), step)
        self._begin(step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._span.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the validation out of the span and of the wait."""
        self._idle_since += self._span.resume()


def spread(times: torch.Tensor) -> dict[str, float]:
    """The tags' values of ``times [ranks, 3]``: seconds a step, share of waiting for data, seconds from batch to loss."""
    scalars = {}
    for column, name in enumerate(_NAMES):
        values = times[:, column]
        scalars |= {f"ranks/{name}_min": float(values.min()), f"ranks/{name}_mean": float(values.mean())}
        scalars[f"ranks/{name}_max"] = float(values.max())
    own = times[:, 0] * times[:, 1] + times[:, 2]
    return scalars | {"ranks/slowest": float(own.argmax()), "ranks/behind": float(own.max() - own.mean())}


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """A point in the work of a CUDA device; None on others, where the host's clock will do."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
