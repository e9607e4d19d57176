"""The loggers of a trainer: scalars for all of them, and the TensorBoard writer."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
from torch.utils.tensorboard import SummaryWriter

from mimdit.core.connected_trainer import connected


def log_scalars(trainer: L.Trainer, scalars: dict[str, float], step: int) -> None:
    """Log ``scalars`` at ``step`` to every logger of the trainer."""
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=step)


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """Return the writer of the trainer's first TensorBoard logger; None without one and on all ranks but 0."""
    if not trainer.is_global_zero:
        return None
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None


def has_tensorboard(trainer: L.Trainer, who: str) -> bool:
    """Return true on every rank if the trainer logs to TensorBoard; if not, report once that the callback ``who`` records nothing."""
    found = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
    if not found:
        rank_zero_info(f"{who}: the trainer has no TensorBoardLogger, so nothing is recorded")
    return found


def purge_lost_events(trainer: L.Trainer) -> None:
    """Purge events logged after the resumed checkpoint; those steps run again.

    Lightning counts logged steps from 0, the callbacks of this package from 1. If both log at the step of the checkpoint, the callbacks'
    event of that step is purged as well; otherwise Lightning's would appear twice.
    """
    writer = tensorboard_writer(trainer)
    if writer is not None and trainer.global_step:
        next_one = trainer.global_step + 1
        step = next_one - 1 if next_one % connected(trainer).log_every_n_steps == 0 else next_one
        assert writer.file_writer is not None, "an open writer has one"
        writer.file_writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)
