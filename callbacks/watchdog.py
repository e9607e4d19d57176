"""Watchdog: end a run that hangs, and leave the stacks and the position of every rank."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

_log = logging.getLogger(__name__)

EXIT_CODE = 70
"""Exit code of a rank that hung."""

_SHOWN = 8
"""Maximum number of ranks, or groups of ranks, that a line names."""


class Watchdog(L.Callback):
    """End a run that hangs, long before the process group times out, and record where every rank was.

    A thread of each rank watches the hooks of this callback. If none is called for ``timeout_seconds``, the thread writes the stacks of
    all threads to a file such as ``rank00003-step0000120.txt`` in ``folder``. The lowest rank still able to also logs an error that names
    the ranks behind and the place where the others wait. After another ``exit_seconds`` the process exits with code 70, without cleanup. So
    the survivors of a killed rank end at most ``timeout_seconds + exit_seconds`` and a few seconds later, even if their communication would
    wait forever. A process in which this thread cannot run, for example in a call that holds Python's lock, is ended by Python's fault
    handler, with its stack on stderr.

    The limits must exceed the longest time between two hooks: the compilation in the first batch, the writing of a checkpoint, or three
    times ``data.shard_timeout`` where shards are copied. Not in the paper.

    Args:
        timeout_seconds: Seconds without a hook after which a rank counts as hung.
        exit_seconds: Seconds from then until the process exits.
        folder: Folder shared by all ranks, for the stacks and a small file per rank with its position. None for ``stacks`` in
            ``trainer.default_root_dir``.

    Raises:
        ValueError: A limit is not above 0.
    """

    def __init__(self, timeout_seconds: float = 900.0, exit_seconds: float = 60.0, *, folder: str | None = None) -> None:
        for name, value in (("timeout_seconds", timeout_seconds), ("exit_seconds", exit_seconds)):
            if value <= 0:
                raise ValueError(f"{name}={value} of Watchdog must be above 0")
        self.timeout_seconds, self.exit_seconds, self.folder = timeout_seconds, exit_seconds, folder
        self._interval = min(10.0, timeout_seconds / 4)
        self._thread: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, such as a deep copy of a module with its Trainer; a copy watches nothing."""
        return {name: value for name, value in vars(self).items() if name != "_over"} | {"_thread": None}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start the thread of a fit."""
        if stage != "fit":
            return
        self._folder = Path(trainer.strategy.broadcast(self.folder or str(Path(trainer.default_root_dir) / "stacks")))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._heartbeat, self._ranks, self._beaten = Heartbeat(trainer.global_rank), trainer.world_size, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(self._over,), name="watchdog", daemon=True)
        self._thread.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop the thread."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop the thread; this rank is about to end."""
        self.teardown(trainer, pl_module, "fit")

    def _beat(self, trainer: L.Trainer, place: str, *, batches: int = 0) -> None:
        """Record a hook and its place in the step."""
        beats = 0 if batches else self._heartbeat.beats + 1
        total = self._heartbeat.batches + batches
        self._heartbeat = Heartbeat(self._heartbeat.rank, trainer.global_step, total, beats, place)
        self._beaten = time.monotonic()

    def _watch(self, over: threading.Event) -> None:
        reported: Heartbeat | None = None
        stderr = sys.__stderr__
        assert stderr is not None, "a process of a run has a stderr"
        try:
            while True:
                # If this thread cannot run any more, the fault handler's still does: it needs no lock.
                patience = self.timeout_seconds + self.exit_seconds + 2 * self._interval
                faulthandler.dump_traceback_later(patience, exit=True, file=stderr)
                self._write(self._heartbeat)
                if over.wait(self._interval):
                    return
                still = time.monotonic() - self._beaten
                if still < self.timeout_seconds:
                    continue
                if reported is not self._heartbeat:
                    reported = self._heartbeat
                    self._report(reported, still)
                if still > self.timeout_seconds + self.exit_seconds:
                    _log.error("Rank %d exits with code %d: no progress for %.0f s.", self._heartbeat.rank, EXIT_CODE, still)
                    os._exit(EXIT_CODE)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _report(self, heartbeat: Heartbeat, still: float) -> None:
        stacks = self._folder / f"rank{heartbeat.rank:05d}-step{heartbeat.step:07d}.txt"
        heartbeats, silent = read_heartbeats(self._folder, self._ranks, oldest=3 * self._interval)
        report = f"No progress for {still:.0f} s. {describe(heartbeats or [heartbeat], silent)}"
        with open(stacks, "w") as file:
            file.write(f"{report}\nThis is rank {heartbeat.rank}, after step {heartbeat.step}, {heartbeat.place}.\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        if heartbeat.rank == min({each.rank for each in heartbeats} - set(silent), default=heartbeat.rank):
            ends = f"Each rank exits in {self.exit_seconds:.0f} s unless it continues"
            _log.error("%s The stacks of all ranks are in %s. %s.", report, self._folder, ends)

    def _write(self, heartbeat: Heartbeat) -> None:
        try:
            heartbeat.write(self._folder)
        except OSError as error:  # a full disk is no reason to stop watching
            _log.warning("Rank %d cannot write its position (%s).", heartbeat.rank, error)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record a hook."""
        self._beat(trainer, "waiting for the first batch")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Record a hook at the start of a batch."""
        self._beat(trainer, "in the forward pass", batches=1)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """Record a hook."""
        self._beat(trainer, "in the backward pass")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Record a hook."""
        self._beat(trainer, "in the optimizer step")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record a hook."""
        self._beat(trainer, "waiting for the next batch, or in a callback")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record a hook."""
        self._beat(trainer, f"in validation, batch {batch_idx}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record a hook."""
        self._beat(trainer, "after validation")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Record a hook."""
        self._beat(trainer, "writing a checkpoint")


@dataclass(frozen=True)
class Heartbeat:
    """Position of a rank: ``beats`` hooks after the start of its ``batches``-th training batch, with ``step`` optimizer steps done."""

    rank: int
    step: int = 0
    batches: int = 0
    beats: int = 0
    place: str = "starting"

    def write(self, folder: Path) -> None:
        """Replace this rank's file; not synced, since a power failure ends the run anyway."""
        path = heartbeat_path(folder, self.rank)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def heartbeat_path(folder: Path, rank: int) -> Path:
    """Return the path of a rank's file."""
    return folder / f"rank{rank:05d}.json"


def read_heartbeats(folder: Path, ranks: int, *, oldest: float) -> tuple[list[Heartbeat], list[int]]:
    """Return the last heartbeat of each rank, and the ranks that wrote none for ``oldest`` seconds.

    Ages are relative to the newest file, by the clock of the file system.
    """
    heartbeats, ages, silent = [], {}, []
    for rank in range(ranks):
        path = heartbeat_path(folder, rank)
        try:
            heartbeats.append(Heartbeat(**json.loads(path.read_text())))
            ages[rank] = path.stat().st_mtime
        except OSError:  # the rank never wrote one
            silent.append(rank)
    newest = max(ages.values(), default=time.time())
    return heartbeats, sorted(silent + [rank for rank, written in ages.items() if newest - written > oldest])


def describe(heartbeats: list[Heartbeat], silent: list[int]) -> str:
    """Describe in a sentence which ranks are behind and where the others are."""
    places: dict[tuple[int, int], list[Heartbeat]] = {}
    for heartbeat in sorted(heartbeats, key=lambda heartbeat: (heartbeat.batches, heartbeat.beats, heartbeat.rank)):
        places.setdefault((heartbeat.batches, heartbeat.beats), []).append(heartbeat)
    first, *others = [f"{_ranks([heartbeat.rank for heartbeat in alike])} {_where(alike[0])}" for alike in places.values()]
    if others:
        shown = "; ".join(others[:_SHOWN]) + ("; …" if len(others) > _SHOWN else "")
        sentence = f"Behind: {first}; the others wait: {shown}"
    else:
        sentence = f"All reporting ranks are at the same place: {first}"
    return sentence + (f". Silent: {_ranks(silent)}, dead, stopped or unable to run a thread" if silent else "") + "."


def _where(heartbeat: Heartbeat) -> str:
    return f"after step {heartbeat.step}, {heartbeat.place}"


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_SHOWN])
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}" + (f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else "")
