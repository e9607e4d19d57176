"""Finding the TensorBoard writer of a trainer."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard import SummaryWriter


def log_scalars(trainer: L.Trainer, scalars: dict[str, float], step: int) -> None:
    """Give the record of a span to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=step)


def tensorboard_writer(trainer: L.Trainer) -> SummaryWriter | None:
    """The writer of the trainer's first TensorBoard logger; None without one and on all ranks but 0."""
    if not trainer.is_global_zero:
        return None
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None


def has_tensorboard(trainer: L.Trainer, who: str) -> bool:
    """Whether the trainer logs to TensorBoard, the same answer on every rank; where not, say once that ``who`` stays idle."""
    found = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
    if not found:
        rank_zero_info(f"{who}: the trainer has no TensorBoardLogger, so nothing is recorded")
    return found


def void_what_was_lost(trainer: L.Trainer) -> None:
    """Have TensorBoard forget what the run that this one resumes logged beyond the checkpoint, for those steps are made once more.

    Lightning counts the steps that it logs from 0, our callbacks count from 1. Where both would be logged at the step of the checkpoint,
    ours of that one step is given up for not having Lightning's twice.
    """
    writer = tensorboard_writer(trainer)
    if writer is not None and trainer.global_step:
        next_one = trainer.global_step + 1
        step = next_one - 1 if next_one % trainer.log_every_n_steps == 0 else next_one
        writer.file_writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step)
