"""``mimdit predict`` against ``mimdit restore``: the same images."""

import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from callbacks import WriteRestored
from mimdit import cli
from tests.tiny_models import tiny_batch, tiny_restorer


def eight_bits(size: int = 1) -> dict:
    """Pairs whose values are those of 8-bit files."""
    batch = tiny_batch(size, 24)
    batch["lq"] = (batch["lq"] * 255).round() / 255
    return batch | {"key": [f"05Noise/{index}" for index in range(size)]}


class Pairs(L.LightningDataModule):
    """One batch.

    Args:
        size: How many images are in it.
    """

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.size = size

    def predict_dataloader(self) -> DataLoader:
        return DataLoader([eight_bits(self.size)], batch_size=None)


@pytest.mark.parametrize("size", [1, 3])
def test_predicting_writes_what_restoring_writes_whatever_the_batch(tmp_path, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    model = tiny_restorer(flow={"sigma_start": 0.5, "start": "degraded"}).eval()
    model.backbone.save_pretrained("saved/backbone", dtype=torch.float32)
    model.save_pretrained("saved")
    (tmp_path / "in").mkdir()
    for index, image in enumerate(eight_bits(size)["lq"]):
        Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(tmp_path / f"in/{index}.png")
    cli.main(["restore", "--checkpoint", "saved", "in", "by_restore"])

    parts = {
        "backbone": {"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": "saved/backbone"}},
        "conditioner": {"class_path": "mimdit.MoEConditioner", "init_args": model.conditioner.config},
        "balance": {"class_path": "mimdit.RoutingBalance"},
        "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": {"steps": 2, "sigma_start": 0.5, "start": "degraded"}},
        "overlap": 16,
        "pretrained": "saved",
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    writing = {"class_path": "callbacks.WriteRestored", "init_args": {"folder": "by_predict"}}
    content = {
        "trainer": quiet | {"callbacks": [writing]},
        "model": {"class_path": "mimdit.Restorer", "init_args": parts},
        "data": {"class_path": f"{__name__}.Pairs", "init_args": {"size": size}},
    }
    Path("config.yaml").write_text(yaml.safe_dump(content))
    cli.main(["predict", "--config", "config.yaml", "--return_predictions=false"])
    for index in range(size):
        one, other = (np.asarray(Image.open(path)).astype(int) for path in (f"by_predict/05Noise/{index}.png", f"by_restore/{index}.png"))
        assert np.abs(one - other).max() <= (0 if size == 1 else 1)


def test_a_key_that_leads_out_of_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the key '\.\./x' leads out of"):
        WriteRestored(str(tmp_path / "out")).on_predict_batch_end(None, None, torch.zeros(1, 3, 4, 4), {"key": ["../x"]}, 0)
    assert not (tmp_path / "x.png").exists()
