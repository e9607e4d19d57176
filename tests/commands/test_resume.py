"""A run of the command line that is stopped and resumed, against one that never stopped: shards, worker processes, schedule and average."""

import csv
from pathlib import Path

import pytest
import yaml

from mimdit.commands.trainer import run
from tests.datamodules.made_shards import make_folder
from tests.tiny_models import restorer_config

STEPS, STOP = 6, 3


def experiment(data: Path, root: Path, workers: int, window: int) -> dict:
    saver = {"dirpath": str(root / "checkpoints"), "filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
    logger = {"save_dir": str(root), "name": None, "version": "log"}
    scheduler = {"class_path": "mimdit.training.optimization.WarmupCosine", "init_args": {"total_steps": STEPS, "warmup_steps": 1}}
    return {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu", "devices": 1, "max_steps": STEPS, "log_every_n_steps": 1, "default_root_dir": str(root),
            "accumulate_grad_batches": window, "enable_progress_bar": False, "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
            "callbacks": [
                {"class_path": "callbacks.EMAUpdate"},
                {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saver},
            ],
        },
        "model": restorer_config(scheduler=scheduler),
        "data": {
            "class_path": "datamodules.RestorationDataModule",
            "init_args": {"train": str(data), "batch_size": 2, "crop": 16, "num_workers": workers},
        },
    }  # fmt: skip


def losses(root: Path, config: dict, *options: str) -> dict[int, str]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(root / "config.yaml"), *options])
    rows = csv.DictReader((root / "log" / "metrics.csv").open())
    return {int(row["step"]): row["train/loss"] for row in rows if row.get("train/loss")}


@pytest.mark.parametrize("workers,window", [(2, 1), (2, 2)])
def test_stopped_and_resumed_equals_never_stopped_and_one_seed_gives_one_run(tmp_path, workers, window):
    make_folder(tmp_path / "data")
    whole = losses(tmp_path / "whole", experiment(tmp_path / "data", tmp_path / "whole", workers, window))
    assert len(whole) == STEPS
    first = losses(tmp_path / "first", experiment(tmp_path / "data", tmp_path / "first", workers, window), f"--trainer.max_steps={STOP}")
    assert first == {step: whole[step] for step in range(STOP)}
    saved = tmp_path / "first" / "checkpoints" / f"step={STOP}.ckpt"
    second = losses(tmp_path / "second", experiment(tmp_path / "data", tmp_path / "second", workers, window), "--ckpt_path", str(saved))
    assert second == {step: whole[step] for step in range(STOP, STEPS)}


def test_what_training_ended_with_goes_on_too(tmp_path):
    make_folder(tmp_path / "data")
    whole = losses(tmp_path / "whole", experiment(tmp_path / "data", tmp_path / "whole", 0, 2))
    root = tmp_path / "two_parts"
    config = experiment(tmp_path / "data", root, 0, 2)
    saver = {"every_n_train_steps": 100, "dirpath": str(root / "checkpoints")}  # so that only the end is saved
    config["trainer"]["callbacks"][1] = {"class_path": "callbacks.CompleteCheckpoint", "init_args": saver}
    losses(root, config, f"--trainer.max_steps={STOP}")
    assert losses(root, config, "--ckpt_path", "last") == {step: whole[step] for step in range(STOP, STEPS)}
