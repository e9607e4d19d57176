"""What a training step with a cluster's callbacks makes the host wait for."""

import json
import subprocess
import sys
from collections import Counter
from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils._python_dispatch import TorchDispatchMode

import callbacks
from tests.distributed.made_runs import make_restorer, of_rank
from tests.tiny_training import train


def test_on_a_device_a_step_reads_no_value_and_copies_none_that_the_host_waits_for():
    """In a process of its own: the device cannot be removed. Another optimizer than a fused one shows that the run finds a read."""
    done = subprocess.run([sys.executable, "-m", "tests.callbacks.simulated_run"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fused"] == [[]] * 3
    assert len(found["plain"]) == 3 and all("read at non_finite.py" in places[0] and len(places) == 1 for places in found["plain"])


class Reads(TorchDispatchMode):
    """Values that Python reads from tensors, in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.steps = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Mark(L.Callback):
    """Counts from one step's end to the next."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.reads.steps.append(self.reads.number)


def test_lightning_reads_nothing_more_than_the_guard_does(tmp_path):
    """A real Trainer with logs, on the CPU: one read a step, of the flag that was copied to the host in the step before."""
    reads, folder = Reads(), str(tmp_path)
    watching = [
        callbacks.EMAUpdate(), callbacks.NonFiniteGuard(), callbacks.Watchdog(), callbacks.CompleteCheckpoint(1000, dirpath=folder),
        callbacks.Preemption(), LearningRateMonitor(), callbacks.Throughput(), callbacks.MFU(), callbacks.Memory(), callbacks.RankSpread(),
        callbacks.Restarts(), callbacks.ExpertUtilization(), Mark(reads),
    ]  # fmt: skip
    with reads:
        train(make_restorer(partial(torch.optim.AdamW, fused=True)), of_rank(0, 1, 1, 6), callbacks=watching, enable_checkpointing=True,
              logger=TensorBoardLogger(tmp_path), gradient_clip_val=1.0, log_every_n_steps=50, default_root_dir=folder)  # fmt: skip
    taken = [after - before for before, after in zip(reads.steps[1:], reads.steps[2:])]
    assert Counter(taken) == {1: 4}
