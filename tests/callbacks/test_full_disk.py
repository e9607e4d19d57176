"""A disk that is full when a checkpoint is written: all ranks learn of it, the one before stays, and the run goes on."""

import contextlib
import errno
import os
import resource
import subprocess
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks import CompleteCheckpoint
from mimdit.distributed.checkpoint_files import newest_complete, read_checkpoint
from mimdit.distributed.torch_files import save_plain
from tests.distributed.made_runs import ADAMW, make_restorer, of_rank, settings
from tests.processes import run_in_processes
from tests.tiny_training import train

LEFT = 64 << 10
"""Bytes that are free: less than a checkpoint, more than the small files beside it."""


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_systems_reason_is_told(tmp_path):
    save_plain({"weights": torch.zeros(9)}, tmp_path / "a.ckpt")
    with file_limit(LEFT), pytest.raises(OSError) as refused:
        save_plain({"weights": torch.zeros(1 << 20)}, tmp_path / "a.ckpt")
    assert refused.value.errno == errno.EFBIG and refused.value.filename == str(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == ["a.ckpt"] and len(read_checkpoint(tmp_path / "a.ckpt")["weights"]) == 9


def test_too_many_in_a_row_stop_the_run(tmp_path):
    saver = CompleteCheckpoint(1, max_failed_saves=1, dirpath=str(tmp_path / "kept"))
    with file_limit(LEFT), pytest.raises(OSError, match="File too large"):
        train(make_restorer(), of_rank(0, 1, 1, 4), callbacks=[saver], enable_checkpointing=True, **settings("auto", 1))
    assert saver.failed_saves == 2


class Trouble(L.Callback):
    """Fills a disk, or forbids one rank large files, only in the fourth step."""

    def __init__(self, folder: Path, rank: int | None) -> None:
        self.folder, self.rank = folder, rank
        self.listed: list[list[str]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.listed.append(sorted(os.listdir(self.folder)) if self.folder.exists() else [])
        filler, hard = self.folder.parent / "filler", resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        if self.rank == trainer.global_rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LEFT if batch_idx == 3 else hard, hard))
        if self.rank is None and trainer.global_rank == 0 and batch_idx == 3:
            free = os.statvfs(self.folder)
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize - LEFT))
        if batch_idx == 4:
            filler.unlink(missing_ok=True)


def run_of_six(rank: int, cases: list[tuple[str, str, int | None]]) -> list[dict]:
    """Checkpoints after the second, fourth and sixth step: what happened."""
    found = []
    for strategy, folder, faulty in cases:
        trouble, saver = Trouble(Path(folder), faulty), CompleteCheckpoint(2, keep=1, dirpath=folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = settings(strategy, 2) | {"enable_checkpointing": True, "callbacks": [trouble, saver]}
            run = train(make_restorer(ADAMW), of_rank(rank, 2, 1, 6), **options)
        messages = [str(warning.message) for warning in caught if "could not be written" in str(warning.message)]
        found.append({"steps": run.global_step, "failed": saver.failed_saves, "messages": messages, "after": trouble.listed[4]})
    return found


def check(cases: list[tuple[str, str, int | None]], ranks: list[list[dict]], reason: str) -> None:
    for (strategy, folder, _), *each in zip(cases, *ranks, strict=True):
        for rank, found in enumerate(each):
            assert found["steps"] == 6 and found["failed"] == 1, (strategy, found)
            assert found["after"] == ["kept.json", "last.ckpt", "step=0000002.ckpt"]
            assert len(found["messages"]) == (1 if rank == 0 else 0)
        assert reason in each[0]["messages"][0] and "still" in each[0]["messages"][0]
        assert newest_complete(folder) == Path(folder) / "step=0000006.ckpt"
        assert read_checkpoint(folder + "/last.ckpt")["global_step"] == 6


@pytest.mark.long
def test_a_full_disk_under_both_strategies(small_disk, tmp_path):
    cases = [(strategy, str(small_disk / strategy), None) for strategy in ("ddp", "fsdp2")]
    check(cases, run_in_processes(partial(run_of_six, cases=cases), tmp_path / "ranks"), "No space left on device")


@pytest.mark.long
def test_one_rank_that_cannot_write(tmp_path):
    cases = [("ddp", str(tmp_path / "ddp"), 0), ("fsdp2", str(tmp_path / "fsdp2"), 1)]
    check(cases, run_in_processes(partial(run_of_six, cases=cases), tmp_path / "ranks"), "File too large")
