"""``configs/ablation/inner_experts.yaml`` trains on tiny made pairs: experts learn, are logged, and reach the exported folder."""

import pytest
import torch

from mimdit import Restorer, cli
from tests.configs.short_run import scalars_of, train_shortly


@pytest.mark.long
def test_it_trains_logs_and_exports_its_experts(tmp_path, monkeypatch):
    counts = {"class_path": "callbacks.TokenUtilization", "init_args": {"every_n_steps": 3}}
    run = train_shortly("inner_experts", tmp_path, monkeypatch, {"callbacks+": [counts]}, "--model.backbone.init_args.moe.num_experts=4")
    tags = scalars_of(run)
    assert {"train/loss/token_balance", "train/loss/token_z", "tokens/max_violation_mean"} <= set(tags)
    assert sum(tag.startswith("tokens_load/") for tag in tags) == 3 * 4
    cli.main(["export", str(next(run.rglob("last.ckpt"))), "folder"])
    images = torch.rand(1, 3, 32, 32)
    with_experts, plain = Restorer.from_pretrained("folder"), Restorer.from_pretrained("folder")
    for block in plain.backbone.transformer.transformer_blocks[1::2]:
        block.ff = block.ff.shared()
    assert with_experts.backbone.moe.num_experts == 4
    assert not torch.equal(with_experts.restore(images, steps=1), plain.restore(images, steps=1))
