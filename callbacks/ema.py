"""EMAUpdate: update the moving average of the weights, and use it in validation, test and prediction."""

from __future__ import annotations

from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from callbacks.non_finite import skipped_step


class MovingAverage(Protocol):
    """Part of `mimdit.training.ema.ExponentialMovingAverage` that the callback uses."""

    def update(self, step: int, *, skipped: torch.Tensor | None = None) -> None:
        """Include the live weights after optimizer step ``step``, unless the boolean scalar ``skipped`` is true."""

    def swap(self) -> None:
        """Exchange live and averaged weights in place."""


class EMAUpdate(L.Callback):
    """Update ``pl_module.ema`` after every optimizer step; swap the averaged weights in for validation, test and prediction.

    The module's ``ema`` offers ``update(step, skipped=None)`` and ``swap()``, an in-place exchange that a second call undoes. Checkpoints
    are written after validation, when live and averaged weights are back in their places. A module without ``ema`` is left unchanged. Not
    in the paper.

    Args:
        evaluate_average: If true, validation, test and prediction use the average; if false, the live weights.
    """

    def __init__(self, evaluate_average: bool = True) -> None:
        self.evaluate_average = evaluate_average
        self._last_step = 0
        self._swapped = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Report a module without a moving average."""
        if _average_of(pl_module) is None:
            rank_zero_info(f"EMAUpdate: {type(pl_module).__name__} has no moving average, so nothing is averaged")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the step that training starts or resumes at."""
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update after an optimizer step, but not after other micro-batches of an accumulation window or a skipped step."""
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            ema = _average_of(pl_module)
            skipped = skipped_step(trainer)
            if ema is None or skipped is True:
                return
            ema.update(self._last_step, skipped=None if skipped is False else skipped)

    def _swap(self, pl_module: L.LightningModule, average: bool) -> None:
        """Put the averaged or the live weights in place."""
        ema = _average_of(pl_module)
        if self.evaluate_average and self._swapped is not average and ema is not None:
            ema.swap()
            self._swapped = average

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average in."""
        self._swap(pl_module, average=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average out, before any checkpoint callback; Lightning calls those last."""
        self._swap(pl_module, average=False)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average in."""
        self._swap(pl_module, average=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average out."""
        self._swap(pl_module, average=False)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average in."""
        self._swap(pl_module, average=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Swap the average out."""
        self._swap(pl_module, average=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Swap the average out, so that a checkpoint saved after an interruption has the live weights in their place."""
        self._swap(pl_module, average=False)


def _average_of(pl_module: L.LightningModule) -> MovingAverage | None:
    return getattr(pl_module, "ema", None)
