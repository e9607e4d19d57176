"""Preemption: a run that is told to stop saves and leaves between two steps, on all ranks alike."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_info

from callbacks.checkpoint import CompleteCheckpoint
from mimdit.core import stop_signals

EXIT_CODES = {signal.SIGUSR1: 85, signal.SIGTERM: 128 + signal.SIGTERM}
"""What a run that saved and stopped returns: 85 says "start me again", 143 is that of any process that SIGTERM ended."""


class Preempted(SystemExit):
    """Ends a run that was asked to stop and has saved; ``code`` is one of `EXIT_CODES`."""


class Preemption(Checkpoint):
    """On SIGUSR1 or SIGTERM save through `CompleteCheckpoint` and end the process with code 85 or 143 (`callbacks.preemption`).

    The signals are held back, never handled (`mimdit.core.stop_signals`). Between two optimiser steps all ranks exchange what they
    received; if any received one, all save the same step and leave. A validation that is due, or under way, is left too, and is done in
    full by the run that resumes. What follows, a new start or none, is for whoever sent the signal: see ``slurm/train.sbatch``. (ours)

    It must come after the checkpoint callbacks in the list, for Lightning takes the first for the one that knows the best checkpoint.

    Args:
        every_n_steps: Optimiser steps, and validation batches, between two exchanges. An exchange is one number from every rank.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} is below 1")
        self.every_n_steps = every_n_steps
        self._last_step = 0
        self._saved_for: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look for what saves.

        Raises:
            ValueError: There is no `CompleteCheckpoint`, or it comes later.
        """
        if stage == "fit" and _saver(trainer) is None:
            raise ValueError(
                "callbacks.Preemption saves through callbacks.CompleteCheckpoint; put one before it in trainer.callbacks,"
                " in place of Lightning's ModelCheckpoint"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hold the signals, of which Lightning has just registered handlers; if one came before, leave without a step."""
        stop_signals.hold()
        self._last_step, self._saved_for = trainer.global_step, agreed_exit_code(trainer.strategy)  # there is nothing new to save

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Leave after a step was saved: Lightning has logged it by now."""
        if self._saved_for is not None:
            self._leave(trainer, self._saved_for)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an optimiser step, not in the middle of an accumulation: save if any rank was told to stop."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if self._last_step % self.every_n_steps or _validation_is_due(trainer):
            return
        self._saved_for = agreed_exit_code(trainer.strategy)
        if self._saved_for is not None:
            _saver(trainer).save_now(trainer)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave a validation that accompanies training; `on_exception` saves, when the live weights are back in their place."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or batch_idx % self.every_n_steps:
            return
        code = agreed_exit_code(trainer.strategy)
        if code is not None:
            self._leave(trainer, code)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save, after a validation was left."""
        if isinstance(exception, Preempted) and self._saved_for is None:
            _forget_validation(trainer)
            _saver(trainer).save_now(trainer, again=True)

    def _leave(self, trainer: L.Trainer, code: int) -> None:
        rank_zero_info(f"Preemption: told to stop after step {trainer.global_step}; saved, and leaving with code {code}")
        raise Preempted(code)


def _saver(trainer: L.Trainer) -> CompleteCheckpoint | None:
    """What saves: a checkpoint callback that is first, if it is one of ours."""
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, CompleteCheckpoint)]
    first = trainer.checkpoint_callbacks[0]
    return None if isinstance(first, Preemption) or not savers else savers[0]


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Whether Lightning will validate before the next batch: a checkpoint from before it would make a resumed run skip it."""
    return trainer.enable_validation and trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def _forget_validation(trainer: L.Trainer) -> None:
    """Have the loop's state say that the first batch of this validation is under way: Lightning's sign to validate again from there."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset_on_run()
    progress.total.started = progress.total.ready
    progress.total.processed = progress.total.completed = progress.total.ready - 1


def agreed_exit_code(strategy: Strategy) -> int | None:
    """What all ranks will leave with if any of them was asked to stop, else None; every rank must call this at the same point."""
    received = stop_signals.received()
    code = torch.tensor(0 if received is None else EXIT_CODES[received], device=strategy.root_device)
    return int(strategy.reduce(code, reduce_op="max")) or None


def leave_together(code: int) -> NoReturn:
    """End this process when every rank is about to, without Python's own clearing up, which takes each rank its own time.

    ``srun --kill-on-bad-exit`` kills the rest once one has left with another code than 0, and would report that instead of ours.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
