"""The newest and best checkpoints are kept, and a restarted run resumes from the newest complete one."""

import errno
import json
import os
from contextlib import nullcontext

import lightning as L
import pytest
import torch

from callbacks import CompleteCheckpoint, Throughput
from callbacks.retention import RECORD
from mimdit.core.collectives import save_together
from mimdit.distributed import WholeCheckpointIO
from mimdit.distributed.checkpoint_files import read_checkpoint, tidy
from tests.callbacks.dummy import LoggingRestorer, events, loader, trainer


class KilledAfter(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


class EndsAtBatch(L.Callback):
    """Ends a run that accumulates two micro-batches, after its first one."""

    def __init__(self, killed: bool) -> None:
        self.killed, self.batches = killed, 0

    def on_train_batch_start(self, trainer, *_) -> None:
        self.batches += 1
        if self.killed and self.batches == 2:
            raise RuntimeError("killed")

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = not self.killed


def fit(folder, steps: int, *callbacks, **options):
    saver = CompleteCheckpoint(2, keep=2, dirpath=str(folder / "kept"))
    settings = {"enable_checkpointing": True, "max_steps": steps, "limit_val_batches": 0, "plugins": [WholeCheckpointIO()]} | options
    run = trainer(folder, saver, *callbacks, **settings)
    run.fit(LoggingRestorer(lr=0.1), loader(), ckpt_path="last")
    return run


def kept(folder) -> list[str]:
    return sorted(path.name for path in (folder / "kept").iterdir() if not path.is_symlink() and path.name != RECORD)


def links(folder) -> dict[str, str]:
    return {path.name: os.readlink(path) for path in (folder / "kept").iterdir() if path.is_symlink()}


def test_the_newest_are_kept_over_restarts(tmp_path):
    fit(tmp_path, 5)
    assert kept(tmp_path) == ["step=0000004.ckpt", "step=0000005.ckpt"]
    for _ in range(2):  # the second finds that there is nothing left to do
        run = fit(tmp_path, 10)
        assert run.global_step == 10 and kept(tmp_path) == ["step=0000008.ckpt", "step=0000010.ckpt"]


def test_an_incomplete_one_is_passed_over(tmp_path):
    fit(tmp_path, 4)
    newest = tmp_path / "kept" / "step=0000004.ckpt"
    newest.write_bytes(newest.read_bytes()[:-50])
    run = fit(tmp_path, 3)
    assert run.ckpt_path == str(tmp_path / "kept" / "step=0000002.ckpt") and run.global_step == 3


def test_the_best_are_kept_beside_the_newest(tmp_path):
    saver = CompleteCheckpoint(2, keep=1, monitor="score", mode="min", keep_best=2, dirpath=str(tmp_path / "kept"))
    scores = {1: 5.0, 2: 3.0, 3: 1.0, 4: float("nan"), 5: 4.0, 6: 2.0, 7: 6.0, 8: 7.0, 9: 8.0}

    class Scored(LoggingRestorer):
        def on_validation_epoch_end(self) -> None:
            self.log("score", torch.tensor(scores[self.trainer.global_step]))

    options = {"max_steps": 9, "limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 0, "max_epochs": -1}
    run = trainer(tmp_path, saver, enable_checkpointing=True, plugins=[WholeCheckpointIO()], check_val_every_n_epoch=None, **options)
    run.fit(Scored(), loader(), loader())
    # 1 and 3 were saved out of turn, 1 gave way to 3; 6 came in its turn and was among the best.
    assert kept(tmp_path) == ["step=0000003.ckpt", "step=0000006.ckpt", "step=0000009.ckpt"]
    assert links(tmp_path) == {"last.ckpt": "step=0000009.ckpt", "best.ckpt": "step=0000003.ckpt"}
    assert json.loads((tmp_path / "kept" / RECORD).read_text())["step=0000006.ckpt"] == 2.0
    assert saver.best_model_path == str(tmp_path / "kept" / "step=0000003.ckpt")


def test_the_links_lead_to_the_newest(tmp_path):
    fit(tmp_path, 4)
    assert links(tmp_path) == {"last.ckpt": "step=0000004.ckpt"}


def test_what_a_killed_run_left_is_finished_or_removed(tmp_path):
    fit(tmp_path, 4)
    folder = tmp_path / "kept"
    for name in (".step=0000006.ckpt.4711-0123abcd.tmp", ".notes.tmp", "mine.ckpt"):
        (folder / name).write_bytes(b"half")
    for name in (".step=0000006.ckpt.writing", ".step=0000002.ckpt.removing"):
        (folder / name).mkdir()
        (folder / name / "__0_0.distcp").write_bytes(b"half")
    fit(tmp_path, 6)
    assert kept(tmp_path) == [".notes.tmp", "mine.ckpt", "step=0000004.ckpt", "step=0000006.ckpt"]


def test_one_that_was_complete_but_for_its_name_gets_it(tmp_path):
    folder = tmp_path / ".step=0000006.ckpt.writing"
    folder.mkdir()
    (folder / "meta.pt").write_bytes(b"all")
    (folder / "index.json").write_text(json.dumps({"format": 1, "files": {"meta.pt": 3}, "global_step": 6}))
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step=0000006.ckpt"]


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"keep": 0}, "keep=0 would leave no checkpoint"),
        ({"keep_best": 0}, "^keep_best=0 must be at least 1; to keep only the newest"),
        ({"mode": "most"}, "^mode='most' is unknown; choose min or max"),
        ({"max_gigabytes": 0.0}, r"^max_gigabytes=0\.0 must be above 0; null sets no limit"),
        ({"max_failed_saves": -1}, "^max_failed_saves=-1 is negative; 0 stops the run"),
    ],
)
def test_what_would_leave_none_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CompleteCheckpoint(**wrong)


def test_a_value_that_nobody_logs_is_named(tmp_path):
    saver = CompleteCheckpoint(2, monitor="val/psnr", dirpath=str(tmp_path / "kept"))
    run = trainer(tmp_path, saver, enable_checkpointing=True, max_steps=6)
    with pytest.raises(ValueError, match="monitors 'val/psnr'"):
        run.fit(LoggingRestorer(), loader(), loader())


def micro_batches(file) -> int:
    """Return the number of micro-batches read when a checkpoint was saved."""
    return read_checkpoint(file)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]


@pytest.mark.parametrize("killed", [True, False])
def test_a_resumed_run_that_ends_inside_a_window_does_not_overwrite_its_checkpoint(tmp_path, killed):
    fit(tmp_path, 4, accumulate_grad_batches=2)
    file = tmp_path / "kept" / "step=0000004.ckpt"
    before = file.read_bytes()
    assert micro_batches(file) == 8
    with pytest.raises(RuntimeError, match="killed") if killed else nullcontext():
        fit(tmp_path, 12, EndsAtBatch(killed), accumulate_grad_batches=2)
    assert file.read_bytes() == before and kept(tmp_path) == ["step=0000002.ckpt", "step=0000004.ckpt"]


def test_a_save_that_failed_is_not_repeated_inside_the_next_window(tmp_path, monkeypatch):
    calls = []

    def fail_once(trainer, path) -> None:
        calls.append(trainer.global_step)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_together(trainer, path)

    monkeypatch.setattr("callbacks.checkpoint.save_together", fail_once)
    with pytest.warns(UserWarning, match="could not be written"):
        fit(tmp_path, 4, accumulate_grad_batches=2)
    assert calls == [2, 4] and micro_batches(tmp_path / "kept" / "step=0000004.ckpt") == 8


@pytest.mark.parametrize("every", [1, 3])
def test_no_step_is_in_the_curves_twice(tmp_path, every):
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, 12, Throughput(1), KilledAfter(5), log_every_n_steps=every)
    fit(tmp_path, 12, Throughput(1), log_every_n_steps=every)  # goes on from step 4
    log = events(tmp_path)
    assert [event.step for event in log.Scalars("loss")] == list(range(every - 1, 12, every))
    # counted from 1: with every step of Lightning's logged, the one of the checkpoint is given up
    assert [event.step for event in log.Scalars("speed/seconds_per_step")] == [step for step in range(1, 13) if (step, every) != (4, 1)]
