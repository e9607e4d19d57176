"""``configs/ablation/prototype.yaml`` trains on tiny made pairs, and logs both losses and the prototypes' similarities."""

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mimdit import cli
from tests.datamodules.made_sources import made_pairs, write_group_folders

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.long
def test_it_trains_and_logs_losses_and_similarities(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    write_group_folders(tmp_path / "own", made_pairs(("08Haze",), count=2, side=80))
    cli.main(["shards", "pairs", "data/own", "--lq", "own/08Haze/LQ", "--gt", "own/08Haze/GT"])
    counts = {"class_path": "callbacks.ExpertUtilization", "init_args": {"every_n_steps": 3}}
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [counts]}}))
    cli.main([
        *("fit", "--config", "configs/quickstart.yaml", "--config", "configs/ablation/prototype.yaml", "--config", "short.yaml"),
        *("--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"),
        *("--model.scheduler.init_args.warmup_steps=1",),
        *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.train=data/own", "--data.validation=data/own"),
        *("--data.test=data/own", "--data.batch_size=2", "--data.crop=64", "--data.num_workers=0", "--data.weights=null"),
    ])  # fmt: skip
    events = next((tmp_path / "runs/ablation/prototype").rglob("events.*"))
    tags = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert {"train/loss/contrast", "train/loss/guide"} <= set(tags)
    assert sum(tag.startswith("experts_gates/prototype_similarity/") for tag in tags) >= 4
