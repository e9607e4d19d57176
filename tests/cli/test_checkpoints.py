"""``--ckpt_path`` of the Trainer's verbs: what a checkpoint fills in, and what wins over it."""

from pathlib import Path

import pytest

from mimdit.commands import trainer as trainer_verbs
from tests.cli import tiny_experiment
from tests.cli.tiny_experiment import TinyModel, parse, told, written


@pytest.fixture
def checkpoint(config, tmp_path) -> Path:
    """A checkpoint of the tiny model, trained with ema 0.999 and a head of width 2."""
    verb = trainer_verbs.run(["fit", "--config", str(config)])
    verb.trainer.save_checkpoint(tmp_path / "tiny.ckpt")
    return tmp_path / "tiny.ckpt"


def test_the_command_line_beats_the_checkpoint(config, checkpoint):
    for verb in ("fit", "test"):
        parsed = parse(verb, "--config", config, "--model.ema", 0.5, "--ckpt_path", checkpoint)
        assert parsed.model.init_args.ema == 0.5


def test_a_config_beats_the_checkpoint(config, checkpoint, tmp_path):
    changed = written(tmp_path / "changed.yaml", {"model": {"init_args": {"ema": 0.25}}})
    assert parse("validate", "--config", config, f"--ckpt_path={checkpoint}", "--config", changed).model.init_args.ema == 0.25


def test_the_checkpoint_fills_what_the_user_left_unset(checkpoint):
    data = ["--data", f"{tiny_experiment.__name__}.TinyData", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    verb = trainer_verbs.run(["test", *data, "--model.ema", "0.5", "--ckpt_path", str(checkpoint)])
    assert verb.model.head.linear.out_features == 2
    assert verb.trainer.callback_metrics["ema"] == 0.5


def test_a_checkpoint_builds_its_model_again(checkpoint):
    model = TinyModel.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    assert model.head.linear.out_features == 2
    assert model.make_optimizer(model.parameters()).defaults["lr"] == 1e-3


def test_a_missing_checkpoint_is_told_before_anything_is_built(capsys, config):
    assert "gone.ckpt" in told(capsys, "test", "--config", config, "--ckpt_path", "gone.ckpt")
