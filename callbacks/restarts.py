"""Restarts: record each start of a run, including requeues."""

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
    """Record each start in ``starts.json``; log ``run/restarts`` = starts − 1.

    ``starts.json`` in the trainer's ``default_root_dir`` holds the time (UTC) of each start, the optimizer step it starts at, the number of
    ranks, the Slurm job and how often it was requeued. It is written before the first step, so a start that never reached a checkpoint
    counts too. Not in the paper.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the start on rank 0."""
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / STARTS_NAME
        starts = [*read_starts(path), _this_start(trainer)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(path) as temporary:
            temporary.write_text(json.dumps(starts, indent=1) + "\n")
        log_scalars(trainer, {"run/restarts": float(len(starts) - 1)}, trainer.global_step)


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Return the recorded starts; an empty list if the file does not exist.

    Raises:
        ValueError: `Restarts` did not write the file.
    """
    if not path.is_file():
        return []
    try:
        starts = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} does not list the starts of a run ({error}); remove it to count from 0") from error
    if not isinstance(starts, list):
        raise ValueError(f"{path} does not list the starts of a run; remove it to count from 0")
    return starts


def _this_start(trainer: L.Trainer) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": trainer.global_step,
        "ranks": trainer.world_size,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_restarts": os.environ.get("SLURM_RESTART_COUNT"),
    }
