"""A stop signal: all ranks save the same step, between two steps, and resuming loses nothing."""

import os
import signal
from functools import partial
from pathlib import Path

import lightning as L
import pytest

from callbacks import CompleteCheckpoint, Preemption, Quality
from callbacks.preemption import Preempted
from mimdit.core import stop_signals
from mimdit.distributed import WholeCheckpointIO
from tests.callbacks.dummy import DummyRestorer, LoggingRestorer, events, loader, trainer
from tests.processes import run_in_processes


class SendSignal(L.Callback):
    """Sends this process a signal in the middle of a batch of training or validation, on one rank."""

    def __init__(self, sent: signal.Signals, rank: int, train_batch: int = -1, validation_batch: int = -1) -> None:
        self.sent, self.rank, self.train_batch, self.validation_batch = sent, rank, train_batch, validation_batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.train_batch and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.sent)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == self.validation_batch and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.sent)


def fit(folder: Path, *callbacks: L.Callback, validate: int | None = None, **options) -> int:
    """Return the exit code of a run, 0 at its end; a received signal is cleared."""
    saver = CompleteCheckpoint(1000, dirpath=str(folder / "kept"))
    limits = {"max_steps": 9, "val_check_interval": validate, "check_val_every_n_epoch": None, "limit_val_batches": 3 if validate else 0}
    settings = limits | {"plugins": [WholeCheckpointIO()], "log_every_n_steps": 1, "num_sanity_val_steps": 0} | options
    run = trainer(folder, Quality(), saver, Preemption(), *callbacks, enable_checkpointing=True, **settings)
    try:
        run.fit(LoggingRestorer(lr=0.1), loader(40, batch_size=1), loader(), ckpt_path="last")
    except Preempted as ended:
        while signal.sigtimedwait(stop_signals.SIGNALS, 0) is not None:
            pass
        stop_signals._handled.clear()
        return ended.code
    return 0


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "kept").glob("*.ckpt") if not path.is_symlink())


def two_ranks(rank: int, folder: str) -> dict:
    codes = {}
    for sent in (signal.SIGUSR1, signal.SIGTERM):
        place = Path(folder) / sent.name
        sender = SendSignal(sent, 1, train_batch=4)  # the first micro-batch of the third step
        codes[sent.name] = fit(place, sender, strategy="ddp", devices=2, accumulate_grad_batches=2, use_distributed_sampler=False)
    return codes


@pytest.mark.long
def test_if_one_rank_receives_a_signal_all_save_the_next_step(tmp_path):
    results = run_in_processes(partial(two_ranks, folder=str(tmp_path)), tmp_path / "meeting")
    assert results == [{"SIGUSR1": 85, "SIGTERM": 143}] * 2
    for sent in ("SIGUSR1", "SIGTERM"):
        assert steps_saved(tmp_path / sent) == ["step=0000004.ckpt"]


def in_validation(rank: int, folder: str) -> list[int]:
    """Return the codes of an undisturbed run, then of starts that receive a signal before a validation, inside it, and before the run."""
    whole, parts = Path(folder) / "whole", Path(folder) / "parts"
    codes = [fit(whole, validate=3)]
    for sender in (SendSignal(signal.SIGUSR1, 0, train_batch=2), SendSignal(signal.SIGUSR1, 0, validation_batch=1)):
        codes.append(fit(parts, sender, validate=3))
    stop_signals.hold()
    os.kill(os.getpid(), signal.SIGUSR1)
    codes.append(fit(parts, validate=3))
    return [*codes, fit(parts, validate=3)]


@pytest.mark.long
def test_an_abandoned_validation_is_repeated_in_full(tmp_path):
    assert run_in_processes(partial(in_validation, folder=str(tmp_path)), tmp_path / "meeting", 1) == [[0, 85, 85, 85, 0]]
    assert [event.step for event in events(tmp_path / "parts").Scalars("loss")] == list(range(9))
    whole, parts = ([(e.step, e.value) for e in events(tmp_path / name).Scalars("val/psnr_output")] for name in ("whole", "parts"))
    assert [step for step, _ in parts] == [step for step, _ in whole] == [2, 5, 8]
    assert parts[0] == whole[0]  # after it the data, which no resumption winds forward here, differ


@pytest.mark.parametrize("callbacks", [[Preemption], [L.pytorch.callbacks.ModelCheckpoint, Preemption], [Preemption, CompleteCheckpoint]])
def test_a_missing_or_later_complete_checkpoint_is_refused(tmp_path, callbacks):
    run = trainer(tmp_path, *(make() for make in callbacks), tensorboard=False, enable_checkpointing=True, max_steps=1)
    with pytest.raises(ValueError, match="put one before it in trainer.callbacks"):
        run.fit(DummyRestorer(), loader())
