"""A tiny restorer that trains slowly enough to be interrupted, on two nodes with one task each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import lightning as L
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mimdit.core.files import replace_when_whole
from tests.datamodules.made_shards import make_folder
from tests.tiny_models import restorer_config


class Pace(L.Callback):
    """Take at least ``seconds`` for a step or a validation batch; rank 0 writes down how far it is in ``step`` and ``validating``."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder, self.seconds = Path(folder), seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._note(trainer, "step", trainer.global_step)
        time.sleep(self.seconds)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._note(trainer, "validating", trainer.global_step)
        time.sleep(self.seconds)

    def _note(self, trainer, name: str, step: int) -> None:
        if trainer.is_global_zero:
            with replace_when_whole(self.folder / name) as path:
                path.write_text(f"{os.environ.get('SLURM_RESTART_COUNT', 0)} {step}")


def write_experiment(folder: Path, *, steps: int, seconds: float = 0.1, every: int = 1000, validate: int | None = None) -> Path:
    """A config under ``folder``, and its shards; checkpoints every ``every`` steps, validation every ``validate``."""
    make_folder(folder / "data")
    logger = {"save_dir": str(folder), "name": None, "version": "log"}
    config = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu", "max_steps": steps, "log_every_n_steps": 1, "default_root_dir": str(folder),
            "enable_model_summary": False, "num_sanity_val_steps": 0,
            "val_check_interval": validate, "check_val_every_n_epoch": None, "limit_val_batches": 3 if validate else 0,
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger},
            "callbacks": [
                {"class_path": "callbacks.EMAUpdate"},
                {"class_path": "callbacks.Quality"},
                {"class_path": "callbacks.CompleteCheckpoint",
                 "init_args": {"dirpath": str(folder / "checkpoints"), "every_n_train_steps": every}},
                {"class_path": "tests.slurm.experiment.Pace", "init_args": {"folder": str(folder), "seconds": seconds}},
            ],
        },
        "model": restorer_config(ema_decay=0.9),
        "data": {
            "class_path": "datamodules.RestorationDataModule",
            "init_args": {
                "train": str(folder / "data"), "validation": str(folder / "data"), "batch_size": 1, "crop": 16, "num_workers": 1,
            },
        },
    }  # fmt: skip
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def logged(folder: Path, tag: str = "train/loss") -> dict[int, float]:
    """A scalar by step, as TensorBoard reads the run; a step that is there twice is an error."""
    events = EventAccumulator(str(folder / "log"), size_guidance={"scalars": 0})
    events.Reload()
    scalars = events.Scalars(tag)
    found = {event.step: event.value for event in scalars}
    assert len(found) == len(scalars), f"{tag} has steps twice: {sorted(event.step for event in scalars)}"
    return found
