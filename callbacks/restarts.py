"""Restarts: how often a run was started, requeues included."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.loggers import log_scalars
from mimdit.core.files import replace_when_whole

STARTS_NAME = "starts.json"


class Restarts(L.Callback):
    """Keep a list of a run's starts in its folder, and log ``run/restarts``, their number less one, at the step that each begins at.

    ``starts.json`` in the trainer's ``default_root_dir`` says of each start the time (UTC), the optimiser step that it begins at, the
    number of ranks, and SLURM's job and how often that was requeued. It is written before the first step, so that a start that never came
    to a checkpoint counts too. (ours)
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the start on rank 0."""
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / STARTS_NAME
        starts = [*read_starts(path), _this_start(trainer)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(path) as temporary:
            temporary.write_text(json.dumps(starts, indent=1) + "\n")
        log_scalars(trainer, {"run/restarts": float(len(starts) - 1)}, trainer.global_step)


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts that were noted; none where there is no such file.

    Raises:
        ValueError: The file is not one that `Restarts` wrote.
    """
    if not path.is_file():
        return []
    try:
        starts = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not the list of a run's starts ({error}); remove it to count from 0") from error
    if not isinstance(starts, list):
        raise ValueError(f"{path} is not the list of a run's starts; remove it to count from 0")
    return starts


def _this_start(trainer: L.Trainer) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": trainer.global_step,
        "ranks": trainer.world_size,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_restarts": os.environ.get("SLURM_RESTART_COUNT"),
    }
