"""``kill -9`` of one rank or of all: the others end, and the run that is started again is the one that was never killed, to the bit.

``MIMDIT_KILLS=20 pytest tests/distributed/test_killed_runs.py -s`` kills more often and prints what happened.
"""

import os
import random
from pathlib import Path

import pytest
import torch

from mimdit.distributed.checkpoint_files import read_checkpoint
from tests.commands.test_resume import experiment
from tests.datamodules.made_shards import make_folder
from tests.distributed.killed_runs import EVERY, RANKS, Kill, Run, kill_at_random

KILLS = int(os.environ.get("MIMDIT_KILLS", "5"))
"""Of both strategies' runs together."""
SURVIVORS_END_WITHIN = 60.0
"""Seconds; on a quiet machine it takes some."""


def config(data: Path, root: Path, strategy: str, steps: int) -> dict:
    made = experiment(data, root, 1, 1)
    saver = {"every_n_train_steps": EVERY, "dirpath": str(root / "checkpoints")}
    made["trainer"] |= {
        "devices": RANKS,
        "strategy": strategy,
        "max_steps": steps,
        "callbacks": [
            {"class_path": "callbacks.EMAUpdate"},
            {"class_path": "callbacks.NonFiniteGuard"},
            {"class_path": "callbacks.Watchdog", "init_args": {"timeout_seconds": 120.0}},
            {"class_path": "callbacks.CompleteCheckpoint", "init_args": saver},
            {"class_path": "tests.distributed.killed_runs.Journal", "init_args": {"folder": str(root)}},
        ],
    }
    made["model"]["init_args"]["scheduler"]["init_args"]["total_steps"] = steps
    return made


@pytest.mark.long
@pytest.mark.parametrize("strategy,rounds", [("ddp", KILLS - KILLS // 2), ("fsdp2", KILLS // 2)])
def test_killed_runs_go_on_as_if_nothing_had_happened(tmp_path, strategy, rounds):
    steps = 2 * EVERY * (rounds + 1)
    make_folder(tmp_path / "data")
    whole, killed = (
        Run(tmp_path / name, config(tmp_path / "data", tmp_path / name, strategy, steps)) for name in ("never_killed", "killed")
    )
    whole.start()
    assert whole.ended() == [0] * RANKS, (whole.folder / "log.txt").read_text()[-3000:]
    kills = kill_at_random(killed, rounds, random.Random(f"{strategy} {rounds}"))
    report(strategy, kills, killed)

    for rank in range(RANKS):
        expected = {entry["step"]: entry for entry in whole.journal(rank)}
        assert sorted(expected) == list(range(1, steps + 1))
        found = killed.journal(rank)
        assert {entry["step"] for entry in found} == set(expected)
        for entry in found:  # also of steps that a kill undid
            assert entry == expected[entry["step"]]
    ends = [read_checkpoint(run.folder / "checkpoints" / "last.ckpt") for run in (whole, killed)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == steps
    assert all(torch.equal(ends[0]["state_dict"][name], tensor) for name, tensor in ends[1]["state_dict"].items())
    assert any(kill.writing for kill in kills)  # or no checkpoint was ever cut short
    assert not killed.half_written()
    assert max(kill.survivors_ended_after for kill in kills) < SURVIVORS_END_WITHIN


def report(strategy: str, kills: list[Kill], run: Run) -> None:
    again = len(run.journal()) - run.journal()[-1]["step"]
    last = max((kill.survivors_ended_after for kill in kills if len(kill.ranks) < RANKS), default=0.0)
    print(
        f"\n{strategy}: {len(kills)} kills, {sum(kill.writing for kill in kills)} of them with a checkpoint half written; "
        f"only rank 0 {sum(kill.ranks == [0] for kill in kills)}, only rank 1 {sum(kill.ranks == [1] for kill in kills)}, "
        f"all {sum(len(kill.ranks) == RANKS for kill in kills)}; survivors ended within {last:.1f} s; {again} steps were made again"
    )
