"""Memory: how much a run takes, before it is too much."""

from __future__ import annotations

from typing import Any

import lightning as L
import psutil
import torch

from callbacks.loggers import log_scalars
from callbacks.step_timer import Span

_GIB = 2**30


class Memory(L.Callback):
    """Log memory in GiB every few optimiser steps, each figure of the rank where it is largest.

    Tags: ``memory/resident_gib``, what each process (without its data workers) has in RAM, on Linux; and on CUDA devices the peaks since
    the last record, validation included: ``memory/peak_allocated_gib`` of tensors and ``memory/peak_reserved_gib`` of the allocator, which
    is what an out-of-memory error is about. (ours)

    Args:
        every_n_steps: Optimiser steps between two records.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self._span = Span(every_n_steps, "Memory")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to look for peaks."""
        self._begin(trainer.strategy.root_device, trainer.global_step)

    def _begin(self, device: torch.device, step: int) -> None:
        self._span.begin(step)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """At the end of a span log."""
        step, device = trainer.global_step, trainer.strategy.root_device
        if not self._span.ends(step):
            return
        found = memory_gib(device)
        largest = trainer.strategy.reduce(torch.tensor(list(found.values()), device=device), reduce_op="max").tolist()
        log_scalars(trainer, dict(zip(found, largest)), step)
        self._begin(device, step)


def memory_gib(device: torch.device) -> dict[str, float]:
    """What this process takes now, and on ``device`` took at most since the peaks were reset, by tag."""
    found = {"memory/resident_gib": psutil.Process().memory_info().rss / _GIB}
    if device.type == "cuda":
        found["memory/peak_allocated_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
        found["memory/peak_reserved_gib"] = torch.cuda.max_memory_reserved(device) / _GIB
    return found
