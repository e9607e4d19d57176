"""A run of three steps of one of configs/ablation on tiny made pairs."""

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mimdit import cli
from tests.datamodules.made_sources import made_pairs, write_group_folders

REPOSITORY = Path(__file__).parents[2]


def train_shortly(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, callbacks: dict, *options: str) -> Path:
    """Train on ``configs/quickstart.yaml`` with the ablation ``name`` in ``folder``, the working directory; return the run's folder.

    Args:
        name: Name of the file, without its suffix.
        folder: Empty folder.
        monkeypatch: Pytest's.
        callbacks: Entry of a config's ``trainer`` that sets or adds the callbacks to test.
        *options: Further options of ``mimdit fit``.
    """
    monkeypatch.chdir(folder)
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    write_group_folders(folder / "own", made_pairs(("08Haze",), count=2, side=80))
    cli.main(["shards", "pairs", "data/own", "--lq", "own/08Haze/LQ", "--gt", "own/08Haze/GT"])
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": callbacks}))
    cli.main([
        *("fit", "--config", "configs/quickstart.yaml", "--config", f"configs/ablation/{name}.yaml", "--config", "short.yaml"),
        *("--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"),
        "--model.scheduler.init_args.warmup_steps=1",
        *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.train=data/own", "--data.validation=data/own"),
        *("--data.test=data/own", "--data.batch_size=2", "--data.crop=64", "--data.num_workers=0", "--data.weights=null", *options),
    ])  # fmt: skip
    return folder / "runs/ablation" / name


def scalars_of(run: Path) -> list[str]:
    """Return the tags that a run logged."""
    return EventAccumulator(str(next(run.rglob("events.*")))).Reload().Tags()["scalars"]
