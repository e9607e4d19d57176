"""Run a function in two gloo processes that meet over a file, as the ranks of a Trainer would."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_two_processes(function: Callable[[int], object], folder: Path) -> list:
    """What ``function(rank)`` returned on each rank; it must be importable."""
    mp.spawn(_work, (function, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _work(rank: int, function: Callable[[int], object], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # a Trainer of two devices then knows that it is one of them
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
