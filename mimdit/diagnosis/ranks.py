"""Between ranks: whether they find one another, compute the same sums, run the same code and see the same folder."""

from __future__ import annotations

import os
import secrets
import socket
import time
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mimdit.core.collectives import gather
from mimdit.diagnosis.finding import Finding
from mimdit.diagnosis.node import existing

_SMALL, _LARGE = 1, {"cpu": 2**22, "cuda": 2**26}
"""Floats of the all-reduces that measure latency and bandwidth."""
_SLOW_GB = 1.0
_VISIBLE_WITHIN = 30.0
"""Seconds that a network file system may take to show a new file."""


@dataclass(frozen=True)
class Place:
    """Which of the processes that were started together this one is, and where they meet, as Lightning would have it."""

    rank: int
    local_rank: int
    world_size: int
    address: str
    port: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"rank {self.rank} ({socket.gethostname()})"


def find_place() -> Place:
    """What torchrun or srun say of this process; without either it is alone.

    Raises:
        ValueError: SLURM's variables are not those that Lightning can work with.
    """
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    warnings.filterwarnings("ignore", message="The `srun` command is available")  # alone is a way to use this too
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            try:
                found = environment()
            except RuntimeError as error:
                raise ValueError(f"{error} Training would end with this too.") from error
            ranks = found.global_rank(), found.local_rank(), found.world_size()
            return Place(*ranks, found.main_address, found.main_port)
    return Place(0, 0, 1, "127.0.0.1", 0)


def meet(place: Place, timeout: float) -> Finding:
    """Form a process group of gloo, which works with and without devices; every rank must call it."""
    where = f"{place.address}:{place.port}"
    os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port)}
    started = time.monotonic()
    try:
        dist.init_process_group("gloo", rank=place.rank, world_size=place.world_size, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError, OSError) as error:  # torch's own errors of a meeting are RuntimeErrors
        reason = str(error).splitlines()[0]
        remedy = (
            "start all ranks at once by srun or torchrun; let every node resolve and reach that address (a firewall, two jobs with one "
            "MASTER_PORT, or GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME that name another network are the usual reasons)"
        )
        found = f"{place.name}: not all of {place.world_size} ranks met at {where} in {timeout:.0f} s ({reason})"
        return Finding.failed("ranks", found, remedy)
    return Finding.ok("ranks", f"{place.world_size} met at {where} in {time.monotonic() - started:.1f} s")


def check_sums(device: torch.device, timeout: float, repeats: int = 5) -> Finding:
    """All-reduce numbers whose sum is known, by NCCL on CUDA and by gloo on a CPU, and tell latency and bandwidth; collective.

    The bandwidth is what goes over each rank's link in a ring: ``2 (n - 1) / n`` times the bytes, by the time. Every rank must give a
    device of the same type.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        group = dist.new_group(backend=backend, timeout=timedelta(seconds=timeout))
        return _sums(device, backend, group, repeats)
    except RuntimeError as error:  # torch's own errors of a collective are RuntimeErrors
        remedy = "NCCL_DEBUG=INFO tells more; is the network that NCCL_SOCKET_IFNAME or NCCL_IB_HCA names there on every node?"
        return Finding.failed("all-reduce", f"{backend} cannot add over the ranks ({str(error).splitlines()[0]})", remedy)


def _sums(device: torch.device, backend: str, group: dist.ProcessGroup, repeats: int) -> Finding:
    rank, world = dist.get_rank(), dist.get_world_size()
    numbers = torch.arange(1024, device=device, dtype=torch.float32) + rank
    dist.all_reduce(numbers, group=group)
    expected = world * torch.arange(1024, device=device, dtype=torch.float32) + world * (world - 1) / 2
    if not torch.equal(numbers, expected):
        return Finding.failed("all-reduce", f"a sum of {backend} over all ranks is wrong", "halve the nodes to find the one at fault")
    small, large = torch.zeros(_SMALL, device=device), torch.zeros(_LARGE[device.type], device=device)
    latency, seconds = _seconds(small, group, 4 * repeats), _seconds(large, group, repeats)
    gigabytes = 2 * (world - 1) / world * large.nbytes / seconds / 1e9
    told = f"{backend}: sums are right, latency {latency * 1e6:.0f} us, {gigabytes:.2f} GB/s a link for {large.nbytes / 2**20:.0f} MiB"
    if device.type == "cuda" and gigabytes < _SLOW_GB:
        remedy = "NCCL_DEBUG=INFO tells which network it took; name the fast one by NCCL_SOCKET_IFNAME or NCCL_IB_HCA"
        return Finding.warning("all-reduce", told, remedy)
    return Finding.ok("all-reduce", told)


def _seconds(tensor: torch.Tensor, group: dist.ProcessGroup, repeats: int) -> float:
    """Seconds of one all-reduce, after two that do not count."""
    for _ in range(2):
        dist.all_reduce(tensor, group=group)
    _wait(tensor)
    started = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor, group=group)
    _wait(tensor)
    return (time.perf_counter() - started) / repeats


def _wait(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


def check_agreement(check: str, mine: dict[str, str], name: str, remedy: str) -> Finding:
    """Whether all ranks give the same values; the same finding on every rank; collective.

    Args:
        check: Name of the check.
        mine: What this rank has, by name.
        name: What to call this rank.
        remedy: What to do where they differ.
    """
    gathered, names = gather(mine), gather(name)
    different = []
    for key in dict.fromkeys(key for each in gathered for key in each):
        values: dict[str, list[str]] = {}
        for who, each in zip(names, gathered):
            values.setdefault(str(each.get(key, "nothing")), []).append(who)
        if len(values) > 1:
            listed = sorted(values.items(), key=lambda entry: -len(entry[1]))
            told = ", ".join(f"{value} on {who[0]}" + (f" and {len(who) - 1} more" if len(who) > 1 else "") for value, who in listed)
            different.append(f"{key} is {told}")
    if different:
        return Finding.failed(check, "; ".join(different), remedy)
    return Finding.ok(check, f"equal on all {len(names)} ranks: {', '.join(mine)}")


def check_shared_folder(folder: Path, place: Place) -> Finding:
    """Every rank writes a file and looks for those of all others; collective.

    A folder that does not exist yet is stood for by the nearest one above it that does.
    """
    here = existing(folder)
    (token,) = _broadcast([secrets.token_hex(6)])
    mine = here / f".mimdit-doctor-{token}-{place.rank}"
    problem = None
    try:
        mine.write_text(token)
    except OSError as error:
        problem = f"{place.name} cannot write to {here} ({error.strerror})"
    dist.barrier()
    others = [here / f".mimdit-doctor-{token}-{rank}" for rank in range(place.world_size)]
    missing = _unseen(others, token) if not any(gather(problem)) else []
    dist.barrier()  # nobody removes what another still looks for
    mine.unlink(missing_ok=True)
    if problem is None and missing:
        problem = f"{place.name} does not see in {here} what rank {missing[0]} wrote" + ("" if len(missing) == 1 else " and others")
    if problem is not None:
        return Finding.failed("shared folder", problem, "give a folder on a file system that all nodes mount at the same path")
    return Finding.ok("shared folder", f"{here}: every rank sees what the others write")


def _broadcast(objects: list[Any]) -> list[Any]:
    dist.broadcast_object_list(objects)
    return objects


def _unseen(paths: list[Path], token: str) -> list[int]:
    """Which of the ranks' files do not come up in time."""
    deadline = time.monotonic() + _VISIBLE_WITHIN
    while True:
        missing = [rank for rank, path in enumerate(paths) if not path.is_file() or path.read_text() != token]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)
