"""Mistakes that libraries report are told in one paragraph, in terms of configs and options."""

from pathlib import Path

import pytest
import yaml

from callbacks.retention import CheckpointRecord
from mimdit import cli
from mimdit.commands.remedies import remedies
from mimdit.commands.trainer import run
from tests.cli.tiny_experiment import told
from tests.commands.made_runs import experiment


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIMDIT_TRACEBACK", raising=False)
    return experiment(tmp_path)


VALIDATED = ["--data.validation=data", "--trainer.val_check_interval=1", "--trainer.check_val_every_n_epoch=null"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ckpt_path=best"], "this run has no checkpoint that a score ranks. Set monitor of callbacks.CompleteCheckpoint"),
        (["--ckpt_path=hpc"], "Lightning's requeuing has left no checkpoint. Give last"),
        (
            ["--trainer.logger=false", "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"],
            "trainer.logger is false, but LearningRateMonitor writes only to a logger. Take it out of trainer.callbacks",
        ),
        (["--trainer.enable_checkpointing=false"], "trainer.callbacks in the config has a callback that saves checkpoints. Take"),
        ([*VALIDATED[:1], "--trainer.val_check_interval=0.5"], "trainer.val_check_interval is a share of an epoch, but the training"),
        ([*VALIDATED, "--trainer.val_check_interval=0.5"], "Give the number of training batches from one validation to the next"),
        (["--trainer.limit_train_batches=0.5"], "trainer.limit_train_batches is a share of an epoch, but the training stream is endless"),
        (
            [*VALIDATED, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/psnrr"],
            "EarlyStopping monitors val/psnrr, which is not logged. Set its monitor to one of: ",
        ),
        (
            [*VALIDATED, "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.monitor=val/psnrr",
             "--trainer.callbacks.dirpath=other"],
            "ModelCheckpoint monitors val/psnrr, which is not logged. Set its monitor to one of: ",
        ),
        (["--trainer.logger=MLFlowLogger"], "MLFlowLogger needs a package that is not installed: pip install mlflow"),
        (["--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateFinder"], "Compare a few rates in short runs: --model"),
        (
            ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=1e-3"],
            "Please provide `swa_epoch_start` as an integer",  # Lightning's own words
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_paragraph_with_its_remedy(config, capsys, options, words):
    message = told(capsys, "fit", "--config", config, *options)
    error = next(line for line in message.splitlines() if line.startswith("error: "))
    assert words in error and "Traceback" not in message


def test_another_optimizer_on_resume_is_told_before_training(config, capsys):
    cli.main(["fit", "--config", str(config)])
    for checkpoint in ("a/checkpoints/last.ckpt", "last"):
        more = ["--model.optimizer=torch.optim.SGD", f"--ckpt_path={checkpoint}", "--trainer.max_steps=3"]
        message = told(capsys, "fit", "--config", config, *more)
        assert "holds the state of torch.optim.AdamW, but the config's optimizer is torch.optim.SGD. Resume with" in message
    again = run(["fit", "--config", str(config), "--ckpt_path=last", "--trainer.max_steps=3", "--model.optimizer.lr=0.1"])
    assert again.trainer.global_step == 3


def test_best_is_the_checkpoint_with_the_best_score_of_the_folder(config):
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"][0]["init_args"] |= {"monitor": "val/x", "every_n_train_steps": 1, "keep": -1}
    config.write_text(yaml.safe_dump(content))
    cli.main(["fit", "--config", str(config), "--trainer.max_steps=3"])
    record = CheckpointRecord(Path("a/checkpoints"))
    for name, score in zip(record.names(), (20.0, 22.0, 21.0), strict=True):
        record.set_score(name, score)
    ran = run(["test", "--config", str(config), "--ckpt_path=best", "--trainer.limit_test_batches=1"])
    assert ran.trainer.ckpt_path.endswith("a/checkpoints/step=0000002.ckpt")


def test_errors_of_no_known_kind_stay_what_they_are():
    for error in (KeyError("momentum"), RuntimeError("shapes differ"), ValueError("could not convert")):
        with pytest.raises(type(error)) as raised, remedies():
            raise error
        assert raised.value is error
