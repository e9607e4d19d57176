"""An endless stream under a Trainer: limits that it can reach, and the count of the batches that went through their steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch

from datamodules.streaming.stream import BadSamples, StreamBatch
from mimdit.core.connected_trainer import connected

if TYPE_CHECKING:
    from datamodules.restoration import RestorationDataModule


class CountConsumed(L.Callback):
    """Callback that counts consumed batches in the datamodule, before a checkpoint of their step is written.

    Logs ``faults/skipped_samples`` and ``faults/lost_shards``, summed over all ranks, when one of them grew.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step from which the run starts."""
        self._step = trainer.global_step
        self._counts = [0, 0]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: StreamBatch, batch_idx: int
    ) -> None:
        """Count the batch; after an optimizer step that is logged, log the faults too."""
        data = cast("RestorationDataModule", connected(trainer).datamodule)  # which has added this callback
        every_n_steps = connected(trainer).log_every_n_steps
        data.mark_consumed(batch)
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and every_n_steps and self._step % every_n_steps == 0:
            self._log_faults(trainer, data.bad)

    def _log_faults(self, trainer: L.Trainer, bad: BadSamples) -> None:
        own = torch.tensor([float(len(bad.reasons)), float(len(bad.lost_shards))], device=trainer.strategy.root_device)
        counts = trainer.strategy.reduce(own, reduce_op="sum").int().tolist()
        if counts != self._counts:
            self._counts = counts
            for logger in trainer.loggers:
                scalars = {"faults/skipped_samples": counts[0], "faults/lost_shards": counts[1]}
                logger.log_metrics(scalars, step=trainer.global_step)


def check_length(trainer: L.Trainer) -> None:
    """Refuse limits that an endless stream never reaches.

    Raises:
        ValueError: The Trainer repeats batches, or would wait for the end of an epoch.
    """
    overfit_batches = connected(trainer).overfit_batches
    if overfit_batches:
        raise ValueError(
            f"trainer.overfit_batches is {overfit_batches}, but it does not repeat batches of an endless stream. "
            "Set data.overfit to a number of samples instead."
        )
    bounded_epochs = isinstance(trainer.limit_train_batches, int) and not isinstance(trainer.limit_train_batches, bool)
    if trainer.max_steps == -1 and trainer.max_epochs != -1 and not bounded_epochs:
        raise ValueError(
            f"trainer.max_epochs is {trainer.max_epochs} and trainer.max_steps is not set, but the training stream is endless: an epoch "
            "of the Trainer would never end. Set trainer.max_steps (or max_time), with val_check_interval as an integer and "
            "check_val_every_n_epoch null."
        )
