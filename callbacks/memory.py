"""Memory: log how much memory a run uses."""

from __future__ import annotations

from typing import Any

import lightning as L
import psutil
import torch

from callbacks.loggers import log_scalars
from callbacks.step_timer import StepTimer

_GIB = 2**30


class Memory(L.Callback):
    """Log memory in GiB every few optimizer steps; each value is the maximum over the ranks.

    Tags: ``memory/resident_gib``, the resident memory of a process without its data workers; and on CUDA devices the peaks since the last
    record, including validation: ``memory/peak_allocated_gib`` of tensors and ``memory/peak_reserved_gib`` of the allocator, to compare
    with the device's memory. Not in the paper.

    Args:
        every_n_steps: Optimizer steps between two records.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self._timer = StepTimer(every_n_steps, "Memory")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the peaks."""
        self._begin(trainer.strategy.root_device, trainer.global_step)

    def _begin(self, device: torch.device, step: int) -> None:
        self._timer.begin(step)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log at the end of an interval."""
        step, device = trainer.global_step, trainer.strategy.root_device
        if not self._timer.ends(step):
            return
        found = memory_gib(device)
        largest = trainer.strategy.reduce(torch.tensor(list(found.values()), device=device), reduce_op="max").tolist()
        log_scalars(trainer, dict(zip(found, largest)), step)
        self._begin(device, step)


def memory_gib(device: torch.device) -> dict[str, float]:
    """Return, by tag, the resident memory of this process and, on CUDA, the peaks of ``device`` since they were reset."""
    found = {"memory/resident_gib": psutil.Process().memory_info().rss / _GIB}
    if device.type == "cuda":
        found["memory/peak_allocated_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
        found["memory/peak_reserved_gib"] = torch.cuda.max_memory_reserved(device) / _GIB
    return found
