"""Throughput: log the speed of training, the time spent waiting for data, and the gradient norm."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from callbacks.loggers import log_scalars
from callbacks.step_timer import StepTimer


class Throughput(L.Callback):
    """Log images per second, the fraction of time spent waiting for data, and the gradient norm, every few optimizer steps.

    Tags: ``speed/images_per_second`` over all ranks, ``speed/data_wait`` in 0..1, ``speed/seconds_per_step``, and ``train/grad_norm``:
    the total 2-norm before clipping. Validation is excluded from the times. Times are the host's: with an accelerator, the host's wait
    slows training only once the device's queue is empty. Images are counted on rank 0 and multiplied by the number of ranks. Not in the
    paper.

    Args:
        every_n_steps: Optimizer steps between two records, over which each averages.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self._timer = StepTimer(every_n_steps, "Throughput")
        self._begin(0)

    def _begin(self, step: int) -> None:
        """Start an interval."""
        self._timer.begin(step)
        self._images = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer."""
        self._begin(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the end of the last batch as waiting for data."""
        self._timer.batch_starts()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images; log at the end of an interval."""
        self._images += len(batch["key"]) * trainer.world_size
        step = trainer.global_step
        if self._timer.ends(step):
            seconds = self._timer.seconds()
            log_scalars(trainer, {
                "speed/images_per_second": self._images / seconds,
                "speed/data_wait": self._timer.waited / seconds,
                "speed/seconds_per_step": seconds / self._timer.steps(),
            }, step)  # fmt: skip
            self._begin(step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause the timer."""
        self._timer.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude the validation from the interval and from the wait."""
        self._timer.resume()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm of the coming step; gradients are unscaled here and not yet clipped."""
        step = trainer.global_step + 1
        if step % self._timer.every_n_steps == 0:
            log_scalars(trainer, {"train/grad_norm": float(gradient_norm(pl_module))}, step)


def gradient_norm(module: torch.nn.Module) -> torch.Tensor:
    """Return the total 2-norm of all gradients; a collective if some are sharded."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    total = torch.zeros(())
    for sharded in (False, True):
        same_kind = [gradient for gradient in gradients if isinstance(gradient, DTensor) is sharded]
        if same_kind:
            norm = torch.nn.utils.get_total_norm(same_kind)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            total = torch.hypot(total.to(norm), norm)
    return total
