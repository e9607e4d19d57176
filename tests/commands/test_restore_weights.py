"""``mimdit restore`` with real weights: those of a run, and the embedded ones."""

import sys
from pathlib import Path

import lightning as L
import numpy as np
import torch
import yaml
from torch.utils.data import DataLoader

from datamodules.degradations.compose import degrade
from datamodules.synthetic.photographs import TEST, photograph_crop
from mimdit import cli
from mimdit.commands import restore as command
from mimdit.conditioner import MoEConditioner
from mimdit.distributed.loading import load_restorer
from mimdit.restorer.pixels import restore_pixels
from tests.commands.made_restorers import run
from tests.datamodules.images.made_images import encoded, to_png
from tests.tiny_models import tiny_backbone, tiny_batch, tiny_restorer


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class Pairs(L.LightningDataModule):
    """Three batches."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([tiny_batch(seed=seed) for seed in range(3)], batch_size=None)


def fitted():
    """The checkpoint of a tiny restorer that ``mimdit fit`` trained in the current folder."""
    backbone = tiny_backbone()
    backbone.save_pretrained("base", dtype=torch.float32)
    sizes = {"latent_channels": 3, "token_dim": 16, "num_layers": 2, "token_patch": 4, "dim": 8, "num_blocks": 1, "estimate": True}
    parts = {
        "backbone": {"class_path": "mimdit.DiTBackbone", "init_args": {"pretrained": "base"}},
        "conditioner": {"class_path": "mimdit.MoEConditioner", "init_args": sizes},
        "balance": {"class_path": "mimdit.RoutingBalance"},
        "flow": {"class_path": "mimdit.flow.FlowMatching", "init_args": {"steps": 2}},
        "estimate_weight": 1.0,
        "overlap": 16,
    }
    saving = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "run", "save_last": True}}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu", "max_steps": 3}
    content = {
        "trainer": quiet | {"callbacks": [saving]},
        "model": {"class_path": "mimdit.Restorer", "init_args": parts},
        "data": {"class_path": f"{__name__}.Pairs"},
    }
    Path("config.yaml").write_text(yaml.safe_dump(content))
    cli.main(["fit", "--config", "config.yaml"])
    return "run/last.ckpt"


def test_a_checkpoint_restores_with_its_averaged_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    checkpoint = fitted()
    cli.main(["export", checkpoint, "folder"])
    averaged = MoEConditioner.from_pretrained("folder").state_dict()
    loaded = load_restorer(checkpoint)
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(loaded.conditioner.state_dict()[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(trained[f"conditioner.{name}"], averaged[name]) for name in averaged)
    loaded.save_pretrained(tmp_path / "again")  # still the averaged weights
    again = MoEConditioner.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], averaged[name]) for name in averaged)

    put(tmp_path / "in/a.png", encoded("PNG"))
    assert run("in", "out", "--checkpoint", checkpoint, "--seed", "3") == 0
    expected = restore_pixels(loaded, command.read_photo(tmp_path / "in/a.png").pixels, seed=3)
    assert (command.read_photo(tmp_path / "out/a.png").pixels == expected).all()


def test_by_default_the_embedded_restorer_improves_degraded_photographs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truths = {f"{name}.{group}": photograph_crop(name, 96) for name in TEST[:2] for group in ("14Lowlight", "05Noise", "16Lowlight_Noise")}
    for name, truth in truths.items():
        degraded = degrade(truth.astype(np.float32) / 255, name.split(".")[1], severity=0.7, seed=1)
        put(tmp_path / f"in/{name}.png", to_png(degraded))
    assert run("in", "out") == 0

    def psnr(folder, name):
        error = command.read_photo(Path(folder, f"{name}.png")).pixels.astype(float) - truths[name]
        return 20 * np.log10(255) - 10 * np.log10((error**2).mean())

    gains = {name: psnr("out", name) - psnr("in", name) for name in truths}
    assert min(gains.values()) > 1, gains


def test_sixteen_bit_and_gray_pixels_are_restored_as_what_they_are():
    model = tiny_restorer(conditioner={"estimate": True}).eval()
    gray = (np.arange(24 * 20).reshape(24, 20, 1) * 130).astype(np.uint16)
    restored = restore_pixels(model, gray, steps=0)  # an untrained estimate is the input itself
    assert restored.dtype == np.uint16 and restored.shape == gray.shape and np.abs(restored.astype(int) - gray).max() <= 1
