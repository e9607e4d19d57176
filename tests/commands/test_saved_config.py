"""The config that a run saves: it starts the same run elsewhere, and no run writes over another's."""

import random
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mimdit import cli
from mimdit.commands.saved_config import with_absolute_interpolations
from mimdit.commands.trainer import run
from tests.cli.tiny_experiment import told
from tests.commands.made_runs import experiment


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIMDIT_TRACEBACK", raising=False)


def state(folder: str) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_saved_config_with_another_root_starts_a_run_there_and_leaves_the_old_one_untouched(tmp_path):
    cli.main(["fit", "--config", str(experiment(tmp_path))])
    before = state("a")
    assert {"a/log/config.yaml", "a/log/metrics.csv", "a/starts.json", "a/checkpoints/last.ckpt"} <= set(before)
    assert "${trainer.default_root_dir}/checkpoints" in before["a/log/config.yaml"][0].decode()

    again = run(["fit", "--config", "a/log/config.yaml", "--trainer.default_root_dir=b", "--trainer.max_steps=3"])
    assert state("a") == before
    assert {path.replace("b/", "a/").replace("step=0000003", "step=0000002") for path in state("b")} == set(before)
    assert again.trainer.global_step == 3 and again.model.hparams["scheduler"]["init_args"]["total_steps"] == 3
    saved = yaml.safe_load(Path("b/log/config.yaml").read_text())
    assert saved["trainer"]["default_root_dir"] == "b" and saved["trainer"]["max_steps"] == 3
    assert saved["model"]["init_args"]["scheduler"]["init_args"]["total_steps"] == "${trainer.max_steps}"


def test_a_config_saved_with_the_paths_of_its_run_is_refused_elsewhere(tmp_path, capsys):
    cli.main(["fit", "--config", str(experiment(tmp_path, paths="a"))])
    before = state("a")
    for more in ([], ["--trainer.logger=false"]):
        message = told(capsys, "fit", "--config", "a/log/config.yaml", "--trainer.default_root_dir=b", *more)
        assert "trainer.callbacks[0].init_args.dirpath=a/checkpoints" in message and "${trainer.default_root_dir}" in message
    assert state("a") == before and not Path("b").exists()


def test_a_run_that_would_log_into_another_s_folder_is_refused(tmp_path, capsys):
    config = experiment(tmp_path, paths="a")
    cli.main(["fit", "--config", str(config)])
    before = state("a")
    message = told(capsys, "fit", "--config", config, "--trainer.default_root_dir=b")
    assert "a/log/config.yaml is the config of the run in a, but trainer.default_root_dir is" in message
    assert state("a") == before


def test_further_runs_in_a_folder_keep_the_configs_of_the_earlier(tmp_path):
    config = str(experiment(tmp_path))
    for steps in (2, 2, 3, 4):  # the second is a restart of the first
        cli.main(["fit", "--config", config, f"--trainer.max_steps={steps}"])
    cli.main(["test", "--config", config, "--ckpt_path=a/checkpoints/last.ckpt", "--trainer.limit_test_batches=1"])
    steps = {path.name: yaml.safe_load(path.read_text())["trainer"]["max_steps"] for path in Path("a/log").glob("config*.yaml")}
    assert steps == {"config-1.yaml": 2, "config-2.yaml": 3, "config.yaml": 4, "config-test.yaml": 2}


def test_a_random_seed_is_saved_as_the_number_that_was_drawn(tmp_path):
    ran = run(["fit", "--config", str(experiment(tmp_path)), "--seed_everything=true"])
    assert type(ran.config["fit"]["seed_everything"]) is int
    assert yaml.safe_load(Path("a/log/config.yaml").read_text())["seed_everything"] == ran.config["fit"]["seed_everything"]


def test_relative_interpolations_become_absolute_ones_with_equal_values():
    values = {"a": 1, "list": [{"b": 2}, {"c": 3}], "map": {"d": {"e": 4}}}
    places = ("a", "list[1].c", "map.d.e")
    relative = {"here": {"deep": [{"x": "${" + "." * 4 + random.Random(seed).choice(places) + "}/tail"} for seed in range(8)]}}
    relative |= {"near": {"own": 5, "beside": "${.own}"}, "env": "${oc.env:HOME}", "plain": "no $", "odd": {"0-1": {"v": 1, "w": "${.v}"}}}
    absolute = with_absolute_interpolations(values | relative)
    assert OmegaConf.to_container(OmegaConf.create(absolute), resolve=True) == OmegaConf.to_container(
        OmegaConf.create(values | relative), resolve=True
    )
    assert absolute["near"]["beside"] == "${near.own}" and "${." not in str(absolute["here"])
    assert absolute["odd"]["0-1"]["w"] == "${.v}" and absolute["env"] == "${oc.env:HOME}"


def test_defaults_that_yaml_cannot_hold_reach_the_run_and_its_saved_config_starts_again(tmp_path):
    adds = [("Timer", "--trainer.callbacks.duration=00:01:00:00"), ("StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=1e-3")]
    options = [word for name, more in adds for word in (f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}", more)]
    epochs = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=1", "--trainer.max_steps=3"]
    first = run(["fit", "--config", str(experiment(tmp_path)), *options, *epochs])
    again = run(["fit", "--config", "a/log/config.yaml", "--trainer.default_root_dir=b"])
    for ran in (first, again):
        timer, average = (next(each for each in ran.trainer.callbacks if type(each).__name__ == name) for name, _ in adds)
        assert 3500 < timer.time_remaining() < 3600 and average.n_averaged == 2  # after 80 % of three epochs, counted from their ends
    assert "serialize" not in Path("a/log/config.yaml").read_text()
