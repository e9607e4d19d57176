"""Attributes of a Trainer that Lightning's connectors set from outside, so its class does not declare them."""

from __future__ import annotations

from typing import Protocol, cast

import lightning as L
from lightning.pytorch.profilers import Profiler


class ConnectedTrainer(Protocol):
    """The attributes that this project reads; every Trainer has them once it is made."""

    callbacks: list[L.Callback]
    datamodule: L.LightningDataModule | None
    fast_dev_run: bool | int
    log_every_n_steps: int
    overfit_batches: int | float
    profiler: Profiler


def connected(trainer: L.Trainer) -> ConnectedTrainer:
    """Return ``trainer`` itself, under the type that declares these attributes."""
    return cast(ConnectedTrainer, trainer)


def has_progress_bar(module: L.LightningModule) -> bool:
    """Return true if the module's Trainer shows a progress bar; what is logged for one is read in every step, and the host waits for it."""
    return module._trainer is not None and module._trainer.progress_bar_callback is not None
