"""``configs/ablation/inner_experts.yaml`` trains on tiny made pairs: experts learn, are logged, and reach the exported folder."""

from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mimdit import Restorer, cli
from tests.datamodules.made_sources import made_pairs, write_group_folders

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.long
def test_it_trains_logs_and_exports_its_experts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    write_group_folders(tmp_path / "own", made_pairs(("08Haze",), count=2, side=80))
    cli.main(["shards", "pairs", "data/own", "--lq", "own/08Haze/LQ", "--gt", "own/08Haze/GT"])
    counts = {"class_path": "callbacks.TokenUtilization", "init_args": {"every_n_steps": 3}}
    Path("short.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks+": [counts]}}))
    cli.main([
        *("fit", "--config", "configs/quickstart.yaml", "--config", "configs/ablation/inner_experts.yaml", "--config", "short.yaml"),
        *("--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1"),
        *("--model.scheduler.init_args.warmup_steps=1", "--model.backbone.init_args.moe.num_experts=4"),
        *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.train=data/own", "--data.validation=data/own"),
        *("--data.test=data/own", "--data.batch_size=2", "--data.crop=64", "--data.num_workers=0", "--data.weights=null"),
    ])  # fmt: skip
    run = tmp_path / "runs/ablation/inner_experts"
    tags = EventAccumulator(str(next(run.rglob("events.*")))).Reload().Tags()["scalars"]
    assert {"train/loss/token_balance", "train/loss/token_z", "tokens/max_violation_mean"} <= set(tags)
    assert sum(tag.startswith("tokens_load/") for tag in tags) == 3 * 4
    cli.main(["export", str(next(run.rglob("last.ckpt"))), "folder"])
    images = torch.rand(1, 3, 32, 32)
    with_experts, plain = Restorer.from_pretrained("folder"), Restorer.from_pretrained("folder")
    for block in plain.backbone.transformer.transformer_blocks[1::2]:
        block.ff = block.ff.shared()
    assert with_experts.backbone.moe.num_experts == 4
    assert not torch.equal(with_experts.restore(images, steps=1), plain.restore(images, steps=1))
