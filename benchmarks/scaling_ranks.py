"""Time of the same work on different numbers of processes of one machine: wall time, and CPU time of all processes."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sd35_medium import Size, make_batch, make_restorer
from torch.utils.data import DataLoader

from mimdit.distributed import FSDP2Strategy

SIZE = Size(layers=6, width=128, dual=2, text_width=64, text_tokens=7, latent=32, divisor=8, blocks=4)
"""Small enough for a CPU, and large enough that communication does not dominate a step."""
IMAGES = 8
"""Images per step, over all processes."""
STRATEGIES = ("ddp", "fsdp2")


class Clock(L.Callback):
    """Callback that records wall seconds and CPU seconds of this process for every step after the first ones."""

    def __init__(self, skipped: int) -> None:
        self.skipped, self.steps = skipped, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Start after a barrier."""
        if dist.is_initialized():
            dist.barrier()
        if batch_idx == self.skipped:
            self.cpu = -_cpu_seconds()
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Record the step."""
        if batch_idx >= self.skipped:
            self.steps.append(time.perf_counter() - self.start)

    def on_train_end(self, trainer, pl_module) -> None:
        """Record the total."""
        self.cpu += _cpu_seconds()


def measure(folder: Path, counts: Sequence[int], steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by strategy and number of processes, the median wall seconds and the CPU seconds of all processes per step."""
    found: dict[str, dict[str, dict[str, float]]] = {strategy: {} for strategy in STRATEGIES}
    for count in counts:
        place = folder / str(count)
        place.mkdir(parents=True)
        mp.spawn(_work, (count, str(place), steps), nprocs=count)
        ranks = [torch.load(place / f"{rank}.pt", weights_only=True) for rank in range(count)]
        for strategy in STRATEGIES:
            wall = statistics.median(max(times) for times in zip(*(rank[strategy]["wall"] for rank in ranks)))
            found[strategy][str(count)] = {"wall": wall, "cpu": sum(rank[strategy]["cpu"] for rank in ranks) / steps}
    return found


def _work(rank: int, count: int, folder: str, steps: int) -> None:
    """Run one process: every number of processes has the same model and shares the same images."""
    torch.set_num_threads(1)
    # With these a Trainer of several devices does not change the number of threads.
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    share = slice(rank * IMAGES // count, (rank + 1) * IMAGES // count)
    skipped, found = 3, {}
    for strategy in STRATEGIES:
        torch.manual_seed(0)
        restorer = make_restorer(SIZE)
        batches = [{name: value[share] for name, value in make_batch(SIZE, IMAGES, seed).items()} for seed in range(steps + skipped)]
        clock = Clock(skipped)
        trainer = L.Trainer(
            accelerator="cpu", devices=count, strategy="ddp" if strategy == "ddp" else FSDP2Strategy(), max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[clock],
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(restorer, DataLoader(batches, batch_size=None))
        found[strategy] = {"wall": clock.steps, "cpu": clock.cpu}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
