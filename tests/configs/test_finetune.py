"""configs/finetune.yaml: the four commands of its header, on tiny made pairs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mimdit import Restorer, cli
from tests.datamodules.made_sources import made_pairs, write_group_folders

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs" / "finetune.yaml"
SMALL = {
    "fit": [
        *("--trainer.max_steps=3", "--trainer.val_check_interval=3", "--model.scheduler.init_args.warmup_steps=1"),
        *("--data.batch_size=2", "--data.crop=64", "--data.num_workers=0"),
    ],
    "test": ["--data.num_workers=0"],
    "restore": ["--tile=64"],
}
"""Options that make a run of seconds; all else is the config's."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with the configs, own pairs and a photograph; the weights come with the package."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    for split in ("train", "test"):
        write_group_folders(tmp_path / "own" / split, made_pairs(("08Haze",), count=2, side=80))
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    head = "".join(re.findall(r"\A(?:#.*\n)*", CONFIG.read_text()))
    return [shlex.split(line) for line in re.findall(r"^#   mimdit (.*)$", head, re.MULTILINE)]


def test_its_four_commands_train_on_own_pairs_from_the_default_and_restore(place):
    assert [command[0] for command in commands()] == ["shards", "fit", "test", "restore"]
    for command in commands():
        options = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"] if command[0] in ("fit", "test") else []
        cli.main([*command, *options, *SMALL.get(command[0], [])])
    saved = torch.load(place / "runs/finetune/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    started = Restorer.from_pretrained().conditioner.state_dict()
    trained = {name.removeprefix("conditioner."): tensor for name, tensor in saved["state_dict"].items() if name.startswith("conditioner.")}
    moved = max(float((trained[name] - started[name]).abs().max()) for name in trained)
    assert 0 < moved < 0.01  # three steps away from the embedded default, not from random weights
    assert (place / "runs/finetune/results.json").is_file()
    assert Image.open(place / "restored/a.png").size == (64, 48)
