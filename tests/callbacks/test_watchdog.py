"""A rank that hangs, whatever it hangs in, ends the run with everybody's stacks."""

import copy
import ctypes
import os
import time
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from callbacks import Watchdog
from callbacks.watchdog import EXIT_CODE, Heartbeat, describe, heartbeat_path, read_heartbeats
from tests.callbacks.dummy import DummyRestorer, loader, trainer
from tests.processes import run_in_processes

TIMEOUT, EXIT = 2.0, 3.0


class Stuck(L.Callback):
    """A rank stays for ever where the fourth batch begins."""

    def __init__(self, rank: int, keep_lock: bool) -> None:
        self.rank, self.keep_lock = rank, keep_lock

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_rank == self.rank and batch_idx == 3:
            (Path(trainer.default_root_dir) / "stuck").write_text(str(time.time()))
            stuck_for_ever(self.keep_lock)


def stuck_for_ever(keep_lock: bool) -> None:
    if keep_lock:
        ctypes.PyDLL(None).sleep(1000)
    else:
        time.sleep(1000)


def hang(rank: int, folder: str, ranks: int) -> None:
    """Hang on the last of ``ranks``; a single rank lets no thread run."""
    torch.manual_seed(0)
    callbacks = Watchdog(TIMEOUT, EXIT), Stuck(ranks - 1, keep_lock=ranks == 1)
    run = trainer(Path(folder), *callbacks, strategy="ddp", devices=ranks, max_steps=6, tensorboard=False)
    run.fit(DummyRestorer(routed=False), loader(batch_size=1))


def ended_by_itself(folder: Path, ranks: int, exit_code: int) -> None:
    """Run `hang`, and see when and how it ends."""
    with pytest.raises(ProcessExitedException) as ended:
        run_in_processes(partial(hang, folder=str(folder), ranks=ranks), folder / "ranks", ranks)
    seconds = time.time() - float((folder / "stuck").read_text())
    assert ended.value.exit_code == exit_code and TIMEOUT + EXIT - 0.6 < seconds < TIMEOUT + EXIT + 15


@pytest.mark.long
def test_a_rank_that_hangs_ends_the_run_and_is_named(tmp_path):
    ended_by_itself(tmp_path, 2, EXIT_CODE)
    waiting = (tmp_path / "stacks" / "rank00000-step0000003.txt").read_text()
    assert "Behind: rank 1 after step 3, in the forward pass; the others wait: rank 0 after step 3, in the" in waiting
    assert "backward" in waiting.partition("This is rank 0")[2]
    assert "stuck_for_ever" in (tmp_path / "stacks" / "rank00001-step0000003.txt").read_text()


@pytest.mark.long
def test_a_call_that_lets_no_thread_run_ends_too(tmp_path, capfd):
    ended_by_itself(tmp_path, 1, 1)
    printed = capfd.readouterr().err
    assert "Timeout (" in printed and "stuck_for_ever" in printed


def test_a_slow_batch_is_reported_and_survived(tmp_path):
    class Slow(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            time.sleep(0.8 if batch_idx == 3 else 0)

    watchdog = Watchdog(0.3, 60.0)
    run = trainer(tmp_path, watchdog, Slow(), max_steps=6, tensorboard=False)
    run.fit(DummyRestorer(), loader())
    assert run.global_step == 6 and watchdog._thread is None
    stacks = [path for path in (tmp_path / "stacks").iterdir() if path.suffix == ".txt"]
    assert [path.name for path in stacks] == ["rank00000-step0000003.txt"] and "on_train_batch_start" in stacks[0].read_text()


def test_a_fast_run_leaves_no_stacks_and_no_thread(tmp_path):
    watchdog = Watchdog(30.0)
    trainer(tmp_path, watchdog, max_steps=2, tensorboard=False).fit(DummyRestorer(), loader(), loader())
    assert [path.name for path in (tmp_path / "stacks").iterdir()] == ["rank00000.json"] and watchdog._thread is None


def test_a_copy_made_while_it_watches_watches_nothing(tmp_path):
    class Copy(L.Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            self.copy = copy.deepcopy(trainer.callbacks[0])

    copying = Copy()
    trainer(tmp_path, Watchdog(30.0), copying, max_steps=1, tensorboard=False).fit(DummyRestorer(), loader())
    assert copying.copy._thread is None and copying.copy.timeout_seconds == 30.0


def test_limits_are_checked():
    with pytest.raises(ValueError, match="exit_seconds=0"):
        Watchdog(exit_seconds=0)


def test_the_one_behind_is_named():
    others = [Heartbeat(rank, 121, 122, 1, "in the backward pass") for rank in (0, 1, 2)]
    behind = Heartbeat(3, 120, 121, 3, "waiting for the next batch")
    sentence = describe([*others, behind], [])
    assert sentence.startswith("Behind: rank 3 after step 120, waiting for the next batch; the others wait: ranks 0, 1, 2 after ")
    assert describe(others, [3]).startswith(
        "All reporting ranks are at the same place: ranks 0, 1, 2 after step 121, in the backward pass. Silent"
    )


def test_many_ranks_are_counted():
    heartbeats = [Heartbeat(rank, 5, 6, 1, "here") for rank in range(1000)]
    assert (
        describe(heartbeats, [])
        == "All reporting ranks are at the same place: ranks 0, 1, 2, 3, 4, 5, 6, 7 and 992 more after step 5, here."
    )


def test_files_tell_who_is_silent(tmp_path):
    for rank in (0, 1, 2):
        Heartbeat(rank, rank, 7, 1, "there").write(tmp_path)
    written = heartbeat_path(tmp_path, 0).stat().st_mtime
    os.utime(heartbeat_path(tmp_path, 1), (written - 60, written - 60))
    heartbeats, silent = read_heartbeats(tmp_path, 4, oldest=30)
    assert [heartbeat.step for heartbeat in heartbeats] == [0, 1, 2] and silent == [1, 3]
