"""Configs of the Trainer's verbs: bases, precedence over each other and under the command line, and what a run saves."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.strategies import DDPStrategy

from mimdit import cli
from mimdit.commands import trainer as trainer_verbs
from tests.cli.tiny_experiment import parse, told, written

PRETRAIN = Path(__file__).parents[2] / "configs" / "embedded" / "pretrain.yaml"


def test_the_later_config_wins_and_the_command_line_wins_over_both(config, tmp_path):
    model = {"init_args": {"ema": 0.9, "head": {"init_args": {"bias": False}}}}
    later = written(tmp_path / "later.yaml", {"model": model, "trainer": {"max_steps": 7}})
    parsed = parse("fit", "--config", config, "--config", later, "--trainer.max_steps", 9)
    assert parsed.trainer.max_steps == 9
    assert parsed.model.init_args.ema == 0.9
    assert parsed.model.init_args.head.init_args.as_dict() == {"width": 2, "bias": False}


def test_interpolation_sees_other_files_and_the_command_line(config, tmp_path):
    other = written(tmp_path / "other.yaml", {"model": {"init_args": {"rows": "${data.init_args.batch_size}"}}})
    assert parse("fit", "--config", config, "--config", other).model.init_args.rows == 4
    assert parse("fit", "--config", config, "--config", other, "--data.batch_size", 6).model.init_args.rows == 6


def test_a_config_overrides_its_bases_and_appends_to_their_lists(config, tmp_path):
    (tmp_path / "parts").mkdir()
    monitor, second = ({"class_path": f"lightning.pytorch.callbacks.{name}"} for name in ("LearningRateMonitor", "DeviceStatsMonitor"))
    first = {"trainer": {"max_steps": 3, "log_every_n_steps": 3, "callbacks": [monitor]}}
    written(tmp_path / "parts" / "first.yaml", {"config": ["../tiny.yaml"]} | first)
    written(tmp_path / "parts" / "second.yaml", {"trainer": {"max_steps": 4}, "model": {"init_args": {"ema": "${trainer.max_steps}"}}})
    whole = {"config": ["parts/first.yaml", "parts/second.yaml"], "trainer": {"max_steps": 5, "callbacks+": [second]}}
    parsed = parse("fit", "--config", written(tmp_path / "whole.yaml", whole))
    assert (parsed.trainer.max_steps, parsed.trainer.log_every_n_steps, parsed.trainer.enable_progress_bar) == (5, 3, False)
    assert parsed.model.init_args.ema == 5.0 and parsed.data.init_args.batch_size == 4
    assert [callback.class_path for callback in parsed.trainer.callbacks] == [monitor["class_path"], second["class_path"]]
    assert parse("fit", f"--config={tmp_path / 'whole.yaml'}").trainer == parsed.trainer


def test_a_base_that_is_missing_or_names_itself_is_told(capsys, config, tmp_path):
    lonely = written(tmp_path / "lonely.yaml", {"config": ["gone.yaml"]})
    assert "lonely.yaml names the config gone.yaml" in told(capsys, "fit", "--config", config, "--config", lonely)
    written(tmp_path / "a.yaml", {"config": ["b.yaml"]})
    written(tmp_path / "b.yaml", {"config": ["a.yaml"]})
    assert "names the config a.yaml, which names" in told(capsys, "fit", "--config", tmp_path / "a.yaml")
    single = written(tmp_path / "single.yaml", {"config": "tiny.yaml"})
    assert "write config: [tiny.yaml]" in told(capsys, "fit", "--config", single)


def test_a_second_run_in_the_same_folder_saves_its_config_and_keeps_the_first(config, tmp_path):
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "run", "version": ""}}
    logged = written(tmp_path / "logged.yaml", {"trainer": {"logger": logger}})
    for steps in (1, 2):
        cli.main(["fit", "--config", str(config), "--config", str(logged), "--trainer.max_steps", str(steps)])
    saved = [yaml.safe_load((tmp_path / "run" / name).read_text()) for name in ("config-1.yaml", "config.yaml")]
    assert [each["trainer"]["max_steps"] for each in saved] == [1, 2]


def test_a_run_over_gloo_leaves_its_process_group(config):
    run = trainer_verbs.run(["fit", "--config", str(config), "--trainer.strategy=ddp", "--trainer.devices=1"])
    assert run.trainer.global_step == 1 and isinstance(run.trainer.strategy, DDPStrategy)
    assert not torch.distributed.is_initialized()


def test_a_printed_config_runs_as_it_was_printed(capsys, config, tmp_path):
    with pytest.raises(SystemExit):
        parse("fit", "--config", config, "--model.ema", 0.75, "--print_config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert parse("fit", "--config", printed).model == parse("fit", "--config", config, "--model.ema", 0.75).model


def test_numbers_of_the_architecture_arrive_as_numbers():
    config = parse("fit", "--config", PRETRAIN, "--model.architecture.patch_size=4")
    assert config.model.init_args.architecture["patch_size"] == 4
    assert config.model.init_args.architecture["num_layers"] == 6
