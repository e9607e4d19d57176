"""From a sharded run to weights for use by the command line: fit, go on, consolidate, validate, export."""

import sys

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file

from mimdit import cli
from mimdit.distributed.checkpoint_files import read_checkpoint
from tests.commands.test_export import CONDITIONER, QUIET, Pairs
from tests.tiny_models import tiny_backbone


class ScoredPairs(Pairs):
    """For validation too."""

    val_dataloader = Pairs.train_dataloader


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run that ``--config experiment.yaml`` describes, in this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    tiny_backbone().save_pretrained(tmp_path / "base", dtype=torch.float32)
    saving = {"class_path": "callbacks.CompleteCheckpoint", "init_args": {"every_n_train_steps": 1, "keep": 2, "dirpath": "run"}}
    parts = {
        "backbone": {"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": "base"}},
        "conditioner": {"class_path": "mimdit.MoEConditioner", "init_args": CONDITIONER},
        "balance": {"class_path": "mimdit.RoutingBalance"},
        "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": {"steps": 1}},
        "overlap": 16,
    }
    content = {
        "trainer": QUIET | {"devices": 1, "callbacks": [saving, {"class_path": "callbacks.EMAUpdate"}], "num_sanity_val_steps": 0},
        "model": {"class_path": "mimdit.Restorer", "init_args": parts},
        "data": {"class_path": f"{__name__}.ScoredPairs"},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
    yield ["--config", "experiment.yaml"]
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_sharded_run_becomes_files_for_use(config, tmp_path, capsys):
    (tmp_path / "sharded.yaml").write_text("trainer: {strategy: {class_path: mimdit.distributed.FSDP2Strategy}}\n")
    cli.main(["fit", *config, "--config", "sharded.yaml", "--ckpt_path", "last"])
    cli.main(["fit", *config, "--trainer.strategy=fsdp2", "--trainer.max_steps=4", "--trainer.max_epochs=3", "--ckpt_path", "last"])
    saved = {path.name for path in (tmp_path / "run").glob("*.ckpt") if not path.is_symlink()}
    assert saved == {"step=0000003.ckpt", "step=0000004.ckpt"}

    capsys.readouterr()
    cli.main(["checkpoint", "inspect", "run"])
    printed = capsys.readouterr().out
    assert "step=0000004.ckpt: complete" in printed and "model: mimdit.Restorer" in printed
    cli.main(["checkpoint", "consolidate", "run", "whole.ckpt"])
    whole, folder = torch.load("whole.ckpt", weights_only=True), "run/step=0000004.ckpt"
    torch.testing.assert_close(whole["state_dict"], read_checkpoint(folder)["state_dict"], rtol=0, atol=0)

    for name, saved, average in (("a", folder, True), ("b", "whole.ckpt", True), ("c", folder, False)):
        cli.main(["checkpoint", "export", str(saved), name, "--average", str(average).lower()])
        prefix = "ema.average.conditioner/" if average else "conditioner."
        for key, tensor in load_file(tmp_path / name / "conditioner.safetensors").items():
            kept = whole["state_dict"].get(prefix + (key.replace(".", "/") if average else key))
            assert kept is None or torch.equal(tensor, kept)
    assert not torch.equal(load_file("a/conditioner.safetensors")["embed.weight"], load_file("c/conditioner.safetensors")["embed.weight"])

    cli.main(["fit", *config, "--trainer.max_steps=5", "--trainer.max_epochs=9", "--ckpt_path", "last"])  # one process, from the folder
    assert (tmp_path / "run" / "step=0000005.ckpt").is_file()
    for saved in (folder, "whole.ckpt"):
        cli.main(["validate", *config, "--ckpt_path", str(saved)])
