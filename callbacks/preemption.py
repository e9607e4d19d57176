"""Preemption: on a stop signal, all ranks save the same step and exit together.

`mimdit.core.stop_signals` holds the signals back; this module exchanges them between the ranks, saves and chooses the exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.utilities import rank_zero_info

from callbacks.checkpoint import CompleteCheckpoint
from callbacks.due_validation import validation_is_due
from mimdit.core import stop_signals
from mimdit.core.collectives import largest_on_host, start_largest_on_host

EXIT_CODES = {signal.SIGUSR1: 85, signal.SIGTERM: 128 + signal.SIGTERM}
"""Exit codes of a run that saved and stopped: 85 requests a restart; 143 is the usual code of a process ended by SIGTERM."""


_ENDLESS = 2**62
"""Stand-in for the number of batches of an endless validation set."""


class Preempted(SystemExit):
    """End of a run that received a stop signal and has saved; ``code`` is one of `EXIT_CODES`."""


class Preemption(Checkpoint):
    """On SIGUSR1 or SIGTERM, save through `CompleteCheckpoint` and end the process with code 85 or 143.

    The signals are held back and never handled (`mimdit.core.stop_signals`). After an optimizer step the ranks start to exchange the
    signals that they received, and read the result after the next one; if any rank received one, all save the same step and exit. A
    validation that is due or running is abandoned, and the resumed run repeats it in full. On code 85 ``slurm/train.sbatch`` requeues the
    job. Not in the paper.

    Place it after the checkpoint callbacks in the list: Lightning takes the first checkpoint callback as the one with the best checkpoint.

    Args:
        every_n_steps: Optimizer steps, and validation batches, between two exchanges. An exchange is an all-reduce of one number between
            the hosts, beside the step that follows. In a validation it ends with the batches that all ranks have.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} of Preemption must be at least 1")
        self.every_n_steps = every_n_steps
        self._last_step = 0
        self._saved_for: int | None = None
        self._shared_batches: list[int] = []
        self._exchange: Callable[[], int] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check the order of the checkpoint callbacks.

        Raises:
            ValueError: There is no `CompleteCheckpoint`, or it comes later.
        """
        if stage == "fit" and _find_saver(trainer) is None:
            raise ValueError(
                "callbacks.Preemption saves through callbacks.CompleteCheckpoint; put one before it in trainer.callbacks,"
                " in place of Lightning's ModelCheckpoint"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hold the signals, for which Lightning has just registered handlers; if one came before, exit without a step."""
        stop_signals.hold()
        self._last_step, self._saved_for = trainer.global_step, agreed_exit_code()  # nothing new to save
        self._exchange = None
        # Lightning's own exchange of SIGTERM waits for the device before every batch; Lightning never sees a signal that is held back.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Exit after a step was saved; Lightning has logged the step by now."""
        if self._saved_for is not None:
            self._leave(trainer, self._saved_for)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an optimizer step, not inside an accumulation window, save if any rank received a signal."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        if self._last_step % self.every_n_steps or validation_is_due(trainer):
            return
        if self._exchange is not None:
            self._saved_for = self._exchange() or None
        self._exchange = start_largest_on_host(own_exit_code())
        if self._saved_for is not None:
            _saver(trainer).save_now(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Agree on the batches of each set that all ranks have: ranks may hold unequal numbers, but exchange equally often."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            counts = [_ENDLESS if count == float("inf") else int(count) for count in trainer.num_val_batches]
            self._shared_batches = [-largest_on_host(-count) for count in counts]

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Exit from a validation during training; `on_exception` saves once the live weights are back in their place."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or batch_idx % self.every_n_steps:
            return
        if batch_idx >= self._shared_batches[dataloader_idx]:
            return
        code = agreed_exit_code()
        if code is not None:
            self._leave(trainer, code)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save after an abandoned validation."""
        if isinstance(exception, Preempted) and self._saved_for is None:
            _forget_validation(trainer)
            _saver(trainer).save_now(trainer, again=True)

    def _leave(self, trainer: L.Trainer, code: int) -> None:
        rank_zero_info(f"Preemption: stop signal received; saved step {trainer.global_step}, exiting with code {code}")
        raise Preempted(code)


def _saver(trainer: L.Trainer) -> CompleteCheckpoint:
    saver = _find_saver(trainer)
    assert saver is not None, "setup has checked it"
    return saver


def _find_saver(trainer: L.Trainer) -> CompleteCheckpoint | None:
    """Return the `CompleteCheckpoint`; None if there is none or `Preemption` comes first."""
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, CompleteCheckpoint)]
    first = trainer.checkpoint_callbacks[0]
    return None if isinstance(first, Preemption) or not savers else savers[0]


def _forget_validation(trainer: L.Trainer) -> None:
    """Set the loop's state to the first batch of this validation being processed, so that the resumed run starts it again."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    assert isinstance(progress.total, _ProcessedTracker)
    progress.reset_on_run()
    progress.total.started = progress.total.ready
    progress.total.processed = progress.total.completed = progress.total.ready - 1


def own_exit_code() -> int:
    """Return the exit code for the stop signal that this rank received; 0 if there was none."""
    received = stop_signals.received()
    return 0 if received is None else EXIT_CODES[received]


def agreed_exit_code() -> int | None:
    """Return the exit code of all ranks if any of them received a stop signal, else None; a collective between the hosts."""
    return largest_on_host(own_exit_code()) or None


def _do_nothing() -> None:
    """Stand for an exchange that is not needed."""


def leave_together(code: int) -> NoReturn:
    """End this process together with all ranks, without Python's cleanup, whose duration differs between ranks.

    ``srun --kill-on-bad-exit`` kills the remaining ranks once one exits with a code other than 0, and would report the kill instead.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
