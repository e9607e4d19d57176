"""EMAUpdate: keeps the moving average up to date, and puts it to work wherever the model is looked at."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from callbacks.non_finite import step_was_skipped


class EMAUpdate(L.Callback):
    """Update ``pl_module.ema`` after every optimiser step; swap the averaged weights in for validation, test and prediction.

    The module's ``ema`` offers ``update(step)`` and ``swap()``, an exchange in place that undoes itself. The weights are those of the
    module, so checkpoints, written after validation, hold live and averaged ones in their right places. A module without ``ema`` is left
    alone. (ours)

    Args:
        evaluate_average: Whether validation, test and prediction use the average; False looks at the live weights.
    """

    def __init__(self, evaluate_average: bool = True) -> None:
        self.evaluate_average = evaluate_average
        self._last_step = 0
        self._swapped = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say it where there is nothing to do."""
        if getattr(pl_module, "ema", None) is None:
            rank_zero_info(f"EMAUpdate: {type(pl_module).__name__} keeps no moving average, so nothing is averaged")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the step that training begins or resumes from."""
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update after an optimiser step: not after every micro-batch of an accumulation, and not after a step that was skipped."""
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            if getattr(pl_module, "ema", None) is not None and not step_was_skipped(trainer):
                pl_module.ema.update(self._last_step)

    def _swap(self, pl_module: L.LightningModule, average: bool) -> None:
        """Have the averaged weights in place, or the live ones."""
        if self.evaluate_average and self._swapped is not average and getattr(pl_module, "ema", None) is not None:
            pl_module.ema.swap()
            self._swapped = average

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average in."""
        self._swap(pl_module, average=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average out, before any checkpoint callback: Lightning calls those last."""
        self._swap(pl_module, average=False)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average in."""
        self._swap(pl_module, average=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average out."""
        self._swap(pl_module, average=False)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average in."""
        self._swap(pl_module, average=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average out."""
        self._swap(pl_module, average=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Average out: what is saved after an interruption has the live weights in their place."""
        self._swap(pl_module, average=False)
