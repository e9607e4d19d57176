"""``mimdit fit`` of an adapted backbone by a config, and ``mimdit export`` of what it trained."""

import sys

import lightning as L
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from mimdit import cli
from mimdit.backbone import DiTBackbone, LoRA
from mimdit.restorer import Restorer
from tests.tiny_models import tiny_backbone, tiny_batch


class Pairs(L.LightningDataModule):
    """Two batches."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([tiny_batch(seed=seed) for seed in range(2)], batch_size=None)


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu", "max_steps": 2}
CONDITIONER = {"latent_channels": 3, "token_dim": 16, "num_layers": 2, "token_patch": 4, "dim": 8, "num_blocks": 1, "num_experts": 3}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Fit what a config describes, its backbone in a folder, by the command line; return the checkpoint and the backbone's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    tiny_backbone().save_pretrained(tmp_path / "base", dtype=torch.float32)
    backbone = {"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": "base", "lora": {"rank": 2, "targets": ["to_q", "to_v"]}}}

    def fit(model: dict | None) -> tuple[str, str]:
        saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "run", "save_last": True}}
        restorer = {"class_path": "mimdit.Restorer", "init_args": {"backbone": backbone} | (model or {})}
        content = {
            "trainer": QUIET | {"callbacks": [saving]},
            "model": backbone if model is None else restorer,
            "data": {"class_path": f"{__name__}.Pairs"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        cli.main(["fit", "--config", "config.yaml"])
        return "run/last.ckpt", "base"

    return fit


def test_an_adapted_backbone_fitted_alone_becomes_a_folder_of_adapters(trained):
    checkpoint, base = trained(None)
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["state_dict"] and all(".lora_" in name for name in saved["state_dict"]) and "transformer" in saved["frozen"]
    cli.main(["export", checkpoint, "adapters"])
    told = DiTBackbone(base, lora=LoRA(rank=2, targets=["to_q", "to_v"], pretrained="adapters"))
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(told.state_dict()[name], tensor) and tensor.any()


def test_an_adapted_restorer_becomes_a_folder_that_brings_its_adapters(trained):
    model = {
        "conditioner": {"class_path": "mimdit.MoEConditioner", "init_args": CONDITIONER},
        "balance": {"class_path": "mimdit.RoutingBalance"},
        "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": {"steps": 2}},
    }
    checkpoint, base = trained(model)
    average = {name: weight for name, weight in torch.load(checkpoint)["state_dict"].items() if name.startswith("ema.") and "lora_" in name}
    cli.main(["export", checkpoint, "folder"])
    state = Restorer.from_pretrained("folder", backbone=DiTBackbone(base)).state_dict()
    assert len(average) == 8
    for name, tensor in average.items():
        assert torch.equal(state[name.removeprefix("ema.average.").replace("/", ".")], tensor)
