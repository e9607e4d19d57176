"""A tiny restorer's experiment, run by the command line."""

from pathlib import Path

import yaml

from tests.datamodules.made_shards import make_folder
from tests.tiny_models import restorer_config


def experiment(folder: Path, *, root: str = "a", paths: str = "${trainer.default_root_dir}") -> Path:
    """A config whose logger, checkpoints and schedule follow other values; ``paths`` replaces the folder of logger and checkpoints."""
    make_folder(folder / "data")
    scheduler = {"total_steps": "${trainer.max_steps}", "warmup_steps": 1}
    logger = {"save_dir": paths, "name": None, "version": "log"}
    content = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_steps": 2, "log_every_n_steps": 1, "default_root_dir": root,
            "enable_progress_bar": False, "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
            "callbacks": [
                {"class_path": "callbacks.CompleteCheckpoint", "init_args": {"dirpath": f"{paths}/checkpoints"}},
                {"class_path": "callbacks.Restarts"},
            ],
        },
        "model": restorer_config(
            scheduler={"class_path": "mimdit.training.optimization.WarmupCosine", "init_args": scheduler}, ema_decay=0.5
        ),
        "data": {
            "class_path": "datamodules.RestorationDataModule",
            "init_args": {"train": str(folder / "data"), "test": str(folder / "data"), "batch_size": 2, "crop": 16, "num_workers": 0},
        },
    }  # fmt: skip
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
