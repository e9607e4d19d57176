"""Mistakes in configs and options of the Trainer's verbs: a few lines that name the key, and the nearest one."""

import pytest

from mimdit import cli
from mimdit.core import user_errors
from tests.cli import tiny_experiment
from tests.cli.tiny_experiment import told, written


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("--trainer.max_stepz=3", "--trainer.max_steps"),
        ("--modelx.init_args.ema=0.5", "--model"),
        ("--data.init_args.batch_sise=3", "batch_size"),
        ("--model.init_args.emma=0.5", "ema"),
        ("--model.init_args.head.init_args.widht=3", "width"),
        ("--model.optimizer.momentumm=0.5", "momentum"),
    ],
)
def test_a_typo_on_the_command_line_is_named_with_the_nearest_key(capsys, config, option, nearest):
    key = option.removeprefix("--").partition("=")[0].rpartition(".")[2]
    message = told(capsys, "fit", "--config", config, option)
    assert key in message and message.count(f"Did you mean {nearest}?") == 1


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ({"model": {"init_args": {"head": {"init_args": {"widht": 3}}}}}, "width"),
        ({"model": {"init_args": {"rowz": 3}}}, "rows"),
        ({"trainer": {"max_stepz": 3}}, "trainer.max_steps"),
        ({"modelx": {"init_args": {"rows": 3}}}, "model"),
    ],
)
def test_a_typo_in_a_config_is_named_with_the_nearest_key(capsys, config, tmp_path, typo, nearest):
    message = told(capsys, "fit", "--config", config, "--config", written(tmp_path / "typo.yaml", typo))
    assert message.count(f"Did you mean {nearest}?") == 1 and "Traceback" not in message


def test_a_key_without_a_near_one_gets_no_suggestion(capsys, config):
    message = told(capsys, "fit", "--config", config, "--model.head.xyzzy=3")
    assert "xyzzy" in message and "Did you mean" not in message


def test_a_missing_config_file_is_named(capsys):
    assert "nowhere.yaml" in told(capsys, "fit", "--config", "nowhere.yaml")


def test_a_value_our_code_refuses_is_told_in_one_paragraph(capsys, monkeypatch, config):
    monkeypatch.setattr(user_errors, "_OURS", (tiny_experiment.__file__,))
    message = told(capsys, "fit", "--config", config, "--model.head.width", 9)
    assert "error: width 9 is above 8, take a smaller one\n" in message
    assert "Traceback" not in message


def test_the_whole_traceback_on_demand(config, monkeypatch):
    monkeypatch.setenv("MIMDIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="width 9"):
        cli.main(["fit", "--config", str(config), "--model.head.width", "9"])
