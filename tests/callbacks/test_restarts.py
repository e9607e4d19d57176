"""How often a run was started."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import Restarts
from callbacks.restarts import read_starts
from tests.callbacks.dummy import DummyRestorer, events, loader, trainer


def fit(folder, steps: int, checkpoint: str | None = None):
    saving = ModelCheckpoint(folder / "checkpoints", every_n_train_steps=1, filename="last", enable_version_counter=False)
    trainer(folder, Restarts(), saving, max_steps=steps, enable_checkpointing=True).fit(DummyRestorer(), loader(), ckpt_path=checkpoint)


def test_every_start_counts_with_the_step_that_it_begins_at(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    fit(tmp_path, 2)
    fit(tmp_path, 4, str(tmp_path / "checkpoints" / "last.ckpt"))
    starts = json.loads((tmp_path / "starts.json").read_text())
    assert [(start["step"], start["ranks"], start["slurm_restarts"]) for start in starts] == [(0, 1, "2"), (2, 1, "2")]
    assert [(entry.step, entry.value) for entry in events(tmp_path).Scalars("run/restarts")] == [(0, 0), (2, 1)]


def test_a_list_of_something_else_is_refused(tmp_path):
    for content in ("no json", "{}"):
        (tmp_path / "starts.json").write_text(content)
        with pytest.raises(ValueError, match="remove it to count from 0"):
            read_starts(tmp_path / "starts.json")
