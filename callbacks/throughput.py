"""Throughput: how fast training goes, what it waits for, and how large its gradients are."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from callbacks.loggers import log_scalars
from callbacks.step_timer import Span


class Throughput(L.Callback):
    """Log images per second, the share of time spent waiting for data, and the gradient norm, every few optimiser steps.

    Tags: ``speed/images_per_second`` over all ranks, ``speed/data_wait`` in 0..1, ``speed/seconds_per_step``, and ``train/grad_norm``:
    the total 2-norm before clipping. Validation is left out of the times. Times are the host's: with an accelerator the wait is that of
    the host, and hurts only once the device's queue runs dry. Images are counted on rank 0 and multiplied by the number of ranks. (ours)

    Args:
        every_n_steps: Optimiser steps between two records, and the span that each averages over.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self._span = Span(every_n_steps, "Throughput")
        self._begin(0)

    def _begin(self, step: int) -> None:
        """Start a new span."""
        self._span.begin(step)
        self._idle_since = time.perf_counter()
        self._waited, self._images = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begin(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there: what passed since the last one ended was waiting."""
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images; at the end of a span log."""
        self._idle_since = time.perf_counter()
        self._images += len(batch["key"]) * trainer.world_size
        step = trainer.global_step
        if self._span.ends(step):
            seconds = self._span.seconds()
            log_scalars(trainer, {
                "speed/images_per_second": self._images / seconds,
                "speed/data_wait": self._waited / seconds,
                "speed/seconds_per_step": seconds / self._span.steps(),
            }, step)  # fmt: skip
            self._begin(step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._span.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the validation out of the span and of the wait."""
        self._idle_since += self._span.resume()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm of the step to come; gradients are unscaled here and not yet clipped."""
        step = trainer.global_step + 1
        if step % self._span.every_n_steps == 0:
            log_scalars(trainer, {"train/grad_norm": float(gradient_norm(pl_module))}, step)


def gradient_norm(module: torch.nn.Module) -> torch.Tensor:
    """Total 2-norm of all gradients, of which sharded ones are summed over their ranks: every rank must call it."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    total = torch.zeros(())
    for sharded in (False, True):
        same_kind = [gradient for gradient in gradients if isinstance(gradient, DTensor) is sharded]
        if same_kind:
            norm = torch.nn.utils.get_total_norm(same_kind)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            total = torch.hypot(total.to(norm), norm)
    return total
