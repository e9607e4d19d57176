"""Run a function in processes that meet over a file, as the ranks of a Trainer would."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_processes(function: Callable[[int], object], folder: Path, count: int = 2, backend: str = "gloo") -> list:
    """What ``function(rank)`` returned on each of ``count`` ranks; it must be importable."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_work, (function, str(folder), count, backend), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _work(rank: int, function: Callable[[int], object], folder: str, count: int, backend: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # a Trainer of several devices then knows that it is one of them
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's shutdown: on a loaded machine a rank once aborted after all its work ("terminate called without an active
    # exception"), presumably because a thread of Gloo needed the GIL during the shutdown.
    os._exit(0)
