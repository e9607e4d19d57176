"""Finding the TensorBoard writer of a trainer."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.tensorboard import SummaryWriter


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
