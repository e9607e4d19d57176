"""Collectives of a training step with the callbacks that talk to other ranks in every step."""

from collections import Counter
from functools import partial

import lightning as L
import pytest
import torch.distributed as dist

from callbacks import CompleteCheckpoint, EMAUpdate, NonFiniteGuard, Preemption
from tests.distributed.made_runs import ADAMW, make_restorer, of_rank, settings
from tests.processes import run_in_processes
from tests.tiny_training import train

STEPS = 4


class Count(L.Callback):
    """Collectives that Python code starts, by name and step."""

    def __init__(self) -> None:
        self.steps = [Counter()]

    def on_train_start(self, trainer, pl_module) -> None:
        self.original = {name: getattr(dist, name) for name in ("all_reduce", "barrier", "all_gather_object", "broadcast")}
        for name, function in self.original.items():
            setattr(dist, name, self.counting(name, function))

    def counting(self, name, function):
        def counted(*args, **options):
            self.steps[-1][name] += 1
            return function(*args, **options)

        return counted

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps.append(Counter())

    def on_train_end(self, trainer, pl_module) -> None:
        for name, function in self.original.items():
            setattr(dist, name, function)


def counted(rank: int, folder: str) -> list[dict]:
    count = Count()
    callbacks = [EMAUpdate(), NonFiniteGuard(), CompleteCheckpoint(1000, dirpath=folder), Preemption(), count]
    run = settings("ddp", 2) | {"enable_checkpointing": True}
    train(make_restorer(ADAMW), of_rank(rank, 2, 1, STEPS), callbacks=callbacks, **run)
    return [dict(step) for step in count.steps[1:STEPS]]


@pytest.mark.long
def test_a_step_has_no_barrier_and_two_small_all_reduces(tmp_path):
    """One of the routing losses' statistics, and one of signals between the hosts."""
    for steps in run_in_processes(partial(counted, folder=str(tmp_path / "kept")), tmp_path):
        assert steps == [{"all_reduce": 2}] * (STEPS - 1)
