"""Watchdog: a run that no longer moves says where it stands, and ends."""

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
"""What a rank that hung ends with."""

_SHOWN = 8
"""Most ranks, or groups of ranks, that a line names."""


class Watchdog(L.Callback):
    """End a run that hangs, long before the process group gives up, and leave behind where every rank was.

    A thread of each rank watches its hooks. When none was called for ``timeout_seconds``, it writes the stacks of all its threads to
    ``rank00003-step0000120.txt`` in ``folder`` and, on the first rank that still can, an error that tells which ranks are behind and where
    the others wait; ``exit_seconds`` later the process ends with code 70, without cleaning up. So the survivors of a rank that was killed
    end at most ``timeout_seconds + exit_seconds`` and a few seconds later, also where their communication only waits. A process that does
    not even let this thread run, as a call that keeps Python's lock, is ended by the fault handler of Python, its stack on stderr.

    The limits must exceed what a run does between two hooks: the compilation in the first batch, one checkpoint being written, or three
    times ``data.shard_timeout`` where shards are copied. (ours)

    Args:
        timeout_seconds: Seconds without a hook after which a rank hangs.
        exit_seconds: Seconds from then until the process ends.
        folder: Where the stacks, and small files that tell where each rank is, are; one that all ranks share. None for ``stacks`` in
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
        """What a copy has, as one that somebody makes of the module with its Trainer: it watches nothing."""
        return {name: value for name, value in vars(self).items() if name != "_over"} | {"_thread": None}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin to watch a fit."""
        if stage != "fit":
            return
        self._folder = Path(trainer.strategy.broadcast(self.folder or str(Path(trainer.default_root_dir) / "stacks")))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pulse, self._ranks, self._beaten = Pulse(trainer.global_rank), trainer.world_size, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(self._over,), name="watchdog", daemon=True)
        self._thread.start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Watch no more."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Watch no more: this rank is about to end."""
        self.teardown(trainer, pl_module, "fit")

    def _beat(self, trainer: L.Trainer, place: str, *, batches: int = 0) -> None:
        """Note a sign of life, and where it comes from."""
        beats = 0 if batches else self._pulse.beats + 1
        total = self._pulse.batches + batches
        self._pulse = Pulse(self._pulse.rank, trainer.global_step, total, beats, place)
        self._beaten = time.monotonic()

    def _watch(self, over: threading.Event) -> None:
        reported: Pulse | None = None
        try:
            while True:
                # Should this thread not run any more, the fault handler's, which asks for no lock, still does.
                patience = self.timeout_seconds + self.exit_seconds + 2 * self._interval
                faulthandler.dump_traceback_later(patience, exit=True, file=sys.__stderr__)
                self._write(self._pulse)
                if over.wait(self._interval):
                    return
                still = time.monotonic() - self._beaten
                if still < self.timeout_seconds:
                    continue
                if reported is not self._pulse:
                    reported = self._pulse
                    self._report(reported, still)
                if still > self.timeout_seconds + self.exit_seconds:
                    _log.error("Rank %d ends with code %d: nothing moved for %.0f s.", reported.rank, EXIT_CODE, still)
                    os._exit(EXIT_CODE)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _report(self, pulse: Pulse, still: float) -> None:
        stacks = self._folder / f"rank{pulse.rank:05d}-step{pulse.step:07d}.txt"
        pulses, silent = read_pulses(self._folder, self._ranks, oldest=3 * self._interval)
        report = f"Nothing moved for {still:.0f} s. {told(pulses or [pulse], silent)}"
        with open(stacks, "w") as file:
            file.write(f"{report}\nThis is rank {pulse.rank}, after step {pulse.step}, {pulse.place}.\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        if pulse.rank == min({each.rank for each in pulses} - set(silent), default=pulse.rank):
            ends = f"Each rank ends {self.exit_seconds:.0f} s from now if that stays so"
            _log.error("%s The stacks of all ranks are in %s. %s.", report, self._folder, ends)

    def _write(self, pulse: Pulse) -> None:
        try:
            pulse.write(self._folder)
        except OSError as error:  # a full disk is no reason to stop watching
            _log.warning("Rank %d cannot write where it is (%s).", pulse.rank, error)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A sign of life."""
        self._beat(trainer, "waiting for the first batch")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """A sign of life, and a new batch."""
        self._beat(trainer, "in the forward pass", batches=1)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """A sign of life."""
        self._beat(trainer, "in the backward pass")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """A sign of life."""
        self._beat(trainer, "in the optimiser's step")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A sign of life."""
        self._beat(trainer, "waiting for the next batch, or in a callback")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A sign of life."""
        self._beat(trainer, f"in validation, batch {batch_idx}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A sign of life."""
        self._beat(trainer, "after validation")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """A sign of life."""
        self._beat(trainer, "writing a checkpoint")


@dataclass(frozen=True)
class Pulse:
    """Where a rank is: ``beats`` hooks after the start of its ``batches``-th training batch, with ``step`` optimiser steps done."""

    rank: int
    step: int = 0
    batches: int = 0
    beats: int = 0
    place: str = "starting"

    def write(self, folder: Path) -> None:
        """Replace this rank's file. Not synced: a power failure ends the run anyway."""
        path = pulse_path(folder, self.rank)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def pulse_path(folder: Path, rank: int) -> Path:
    """This rank's file."""
    return folder / f"rank{rank:05d}.json"


def read_pulses(folder: Path, ranks: int, *, oldest: float) -> tuple[list[Pulse], list[int]]:
    """Everybody's last pulse, and who has not written one for ``oldest`` seconds, by the clock of the file system."""
    pulses, ages, silent = [], {}, []
    for rank in range(ranks):
        path = pulse_path(folder, rank)
        try:
            pulses.append(Pulse(**json.loads(path.read_text())))
            ages[rank] = path.stat().st_mtime
        except OSError:  # it never came as far as that
            silent.append(rank)
    newest = max(ages.values(), default=time.time())
    return pulses, sorted(silent + [rank for rank, written in ages.items() if newest - written > oldest])


def told(pulses: list[Pulse], silent: list[int]) -> str:
    """In a sentence, who is behind and where the others are."""
    places: dict[tuple[int, int], list[Pulse]] = {}
    for pulse in sorted(pulses, key=lambda pulse: (pulse.batches, pulse.beats, pulse.rank)):
        places.setdefault((pulse.batches, pulse.beats), []).append(pulse)
    first, *others = [f"{_ranks([pulse.rank for pulse in alike])} {_where(alike[0])}" for alike in places.values()]
    if others:
        shown = "; ".join(others[:_SHOWN]) + ("; …" if len(others) > _SHOWN else "")
        sentence = f"Behind is {first}, while the others wait: {shown}"
    else:
        sentence = f"All that report are at one place: {first}"
    return sentence + (f". Not heard of any more: {_ranks(silent)}, dead, stopped or letting no thread run" if silent else "") + "."


def _where(pulse: Pulse) -> str:
    return f"after step {pulse.step}, {pulse.place}"


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_SHOWN])
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}" + (f" and {len(ranks) - _SHOWN} more" if len(ranks) > _SHOWN else "")
