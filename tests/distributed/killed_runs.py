"""Runs of the command line on several ranks that are killed at chosen moments and started again, as a batch script would."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import yaml

RANKS = 2
EVERY = 2
"""Optimizer steps between two checkpoints."""
PATIENCE = 300.0
"""Seconds within which anything that is waited for has to happen."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.distributed.killed_runs", "tests.commands.test_resume", "mimdit.backbone.sd3"])
"""Each rank is a process of its own, but what it imports is imported once, in the process that they are forked from."""


class Journal(L.Callback):
    """Each rank appends what it did in every step: the loss to the bit, and the samples."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        entry = {"step": trainer.global_step, "loss": float(outputs["loss"]).hex(), "keys": batch["key"], "draw": batch["draw"]}
        with open(Path(self.folder) / f"rank{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps(entry) + "\n")


@dataclass
class Run:
    """A config that is started again and again in its folder."""

    folder: Path
    config: dict
    processes: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))

    def start(self) -> None:
        """Start every rank on ``--ckpt_path last``."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        args = ["fit", "--config", str(self.folder / "config.yaml"), "--ckpt_path", "last"]
        self.processes = [_server.Process(target=_rank, args=(rank, port, args, str(self.folder)), daemon=False) for rank in range(RANKS)]
        for process in self.processes:
            process.start()

    def kill(self, ranks: list[int]) -> float:
        """``kill -9`` them; the seconds until the last of the others has ended, by itself and not well."""
        for rank in ranks:
            os.kill(self.processes[rank].pid, signal.SIGKILL)
        start = time.monotonic()
        codes = self.ended()
        assert all(codes[rank] == -signal.SIGKILL if rank in ranks else codes[rank] != 0 for rank in range(RANKS)), codes
        return time.monotonic() - start

    def ended(self) -> list[int]:
        """The exit codes, once all have ended."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(deadline - time.monotonic())
        left = [process for process in self.processes if process.is_alive()]
        for process in left:
            process.kill()
        assert not left, f"ranks still ran after {PATIENCE} s; see {self.folder}/log.txt"
        return [process.exitcode for process in self.processes]

    def journal(self, rank: int = 0) -> list[dict]:
        """What a rank noted, over all starts."""
        path = self.folder / f"rank{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, happened: Callable[[], bool], pause: float) -> bool:
        """Wait for something; False if the run ended before."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if not all(process.is_alive() for process in self.processes):
                return happened()
            assert time.monotonic() < deadline, f"nothing happened in {PATIENCE} s; see {self.folder}/log.txt"
            time.sleep(pause)
        return True

    def reaches(self, entries: int) -> bool:
        """Wait for so many of rank 0's entries."""
        return self.wait(lambda: len(self.journal()) >= entries, 0.005)

    def half_written(self) -> list[str]:
        """Checkpoints that are being written, or were."""
        folder = self.folder / "checkpoints"
        hidden = os.listdir(folder) if folder.is_dir() else []
        return [name for name in hidden if name.startswith(".step") and name.endswith((".tmp", ".writing"))]


@dataclass
class Kill:
    """What one kill did."""

    ranks: list[int]
    writing: bool
    """Whether a checkpoint was half written when they died."""
    step: int
    survivors_ended_after: float


def kill_at_random(run: Run, rounds: int, dice: random.Random) -> list[Kill]:
    """Start ``run`` so many times and kill one rank or all, by turns while a checkpoint is written and at any moment; then let it end."""
    kills, victims = [], [[0], [1], list(range(RANKS))]
    for number in range(rounds):
        if number % len(victims) == 0:
            dice.shuffle(victims)
        run.start()
        begun = len(run.journal())
        assert run.reaches(begun + dice.randint(1, 2 * EVERY)), f"the run ended early; see {run.folder}/log.txt"
        if number % 2 == 0:
            assert run.wait(lambda: bool(run.half_written()), 0.0)
        else:
            time.sleep(dice.uniform(0, 0.1))
        ranks = victims[number % len(victims)]
        ended = run.kill(ranks)
        kills.append(Kill(ranks, bool(run.half_written()), run.journal()[-1]["step"], ended))
    run.start()
    assert run.ended() == [0] * RANKS, f"see {run.folder}/log.txt"
    return kills


def _rank(rank: int, port: int, args: list[str], folder: str) -> None:
    log = os.open(f"{folder}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    multiprocessing.set_start_method("fork", force=True)  # for the data's workers, as where a rank was started from a command line
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.argv = ["mimdit", *args]
    from mimdit import cli

    cli.main(args)
