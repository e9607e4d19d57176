"""Checks between ranks: process group, all-reduce, equal software and data, shared folder."""

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
"""Number of floats in the all-reduces that measure latency and bandwidth."""
_SLOW_GB = 1.0
"""Bandwidth in GB/s per link below which NCCL probably uses the wrong network."""
_VISIBLE_WITHIN = 30.0
"""Seconds that a network file system may take to show a new file."""


@dataclass(frozen=True)
class Place:
    """Rank of this process among those started together, and their meeting point, as Lightning would set them."""

    rank: int
    local_rank: int
    world_size: int
    address: str
    port: int

    @property
    def name(self) -> str:
        """Name of this rank for messages."""
        return f"rank {self.rank} ({socket.gethostname()})"


def find_place() -> Place:
    """Return the place that torchrun or srun gave this process; without either, a single process's place.

    Raises:
        ValueError: Lightning rejects the Slurm variables.
    """
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    warnings.filterwarnings("ignore", message="The `srun` command is available")  # a single process is a valid use, too
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            try:
                found = environment()
            except RuntimeError as error:
                raise ValueError(f"{error} Training would fail with the same error.") from error
            ranks = found.global_rank(), found.local_rank(), found.world_size()
            return Place(*ranks, found.main_address, found.main_port)
    return Place(0, 0, 1, "127.0.0.1", 0)


def meet(place: Place, timeout: float) -> Finding:
    """Form a gloo process group, which works with and without devices; a collective."""
    where = f"{place.address}:{place.port}"
    os.environ |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port)}
    started = time.monotonic()
    try:
        dist.init_process_group("gloo", rank=place.rank, world_size=place.world_size, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError, OSError) as error:  # errors of the rendezvous are RuntimeErrors
        reason = str(error).splitlines()[0]
        remedy = (
            "start all ranks at once with srun or torchrun, and let every node resolve and reach that address (usual reasons: a firewall, "
            "two jobs with the same MASTER_PORT, or GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME set to another network)"
        )
        found = f"{place.name}: not all of {place.world_size} ranks met at {where} in {timeout:.0f} s ({reason})"
        return Finding.failed("ranks", found, remedy)
    return Finding.ok("ranks", f"{place.world_size} met at {where} in {time.monotonic() - started:.1f} s")


def check_sums(device: torch.device, timeout: float, repeats: int = 5) -> Finding:
    """Check an all-reduce with a known sum, by NCCL on CUDA and gloo on CPU, and measure latency and bandwidth; a collective.

    The bandwidth is for each rank's link in a ring: ``2 (n - 1) / n`` times the bytes, divided by the time.

    Args:
        device: Device of this rank; all ranks must pass the same type.
        timeout: Seconds that a rank waits for the others.
        repeats: Number of all-reduces to average the bandwidth over; four times as many for the latency.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        group = dist.new_group(backend=backend, timeout=timedelta(seconds=timeout))
        assert not isinstance(group, int), "every rank is in the group"
        return _sums(device, backend, group, repeats)
    except RuntimeError as error:  # errors of a collective are RuntimeErrors
        remedy = "set NCCL_DEBUG=INFO for details, and check that every node has the network named by NCCL_SOCKET_IFNAME or NCCL_IB_HCA"
        return Finding.failed("all-reduce", f"{backend} cannot all-reduce over the ranks ({str(error).splitlines()[0]})", remedy)


def _sums(device: torch.device, backend: str, group: dist.ProcessGroup, repeats: int) -> Finding:
    rank, world = dist.get_rank(), dist.get_world_size()
    numbers = torch.arange(1024, device=device, dtype=torch.float32) + rank
    dist.all_reduce(numbers, group=group)
    expected = world * torch.arange(1024, device=device, dtype=torch.float32) + world * (world - 1) / 2
    if not torch.equal(numbers, expected):
        return Finding.failed("all-reduce", f"an all-reduce of {backend} gives a wrong sum", "repeat on half of the nodes to find it")
    small, large = torch.zeros(_SMALL, device=device), torch.zeros(_LARGE[device.type], device=device)
    latency, seconds = _seconds(small, group, 4 * repeats), _seconds(large, group, repeats)
    gigabytes = 2 * (world - 1) / world * large.nbytes / seconds / 1e9
    text = f"{backend}: correct sums, latency {latency * 1e6:.0f} us, {gigabytes:.2f} GB/s per link for {large.nbytes / 2**20:.0f} MiB"
    if device.type == "cuda" and gigabytes < _SLOW_GB:
        remedy = "set NCCL_DEBUG=INFO to see the network in use; select the fast one with NCCL_SOCKET_IFNAME or NCCL_IB_HCA"
        return Finding.warning("all-reduce", text, remedy)
    return Finding.ok("all-reduce", text)


def _seconds(tensor: torch.Tensor, group: dist.ProcessGroup, repeats: int) -> float:
    """Return the seconds of one all-reduce, after two for warm-up."""
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
    """Compare values over all ranks; return the same finding on every rank. A collective.

    Args:
        check: Name of the check.
        mine: Values of this rank, by name.
        name: Name of this rank for messages.
        remedy: Recommended action if they differ.
    """
    gathered, names = gather(mine), gather(name)
    different = []
    for key in dict.fromkeys(key for each in gathered for key in each):
        values: dict[str, list[str]] = {}
        for who, each in zip(names, gathered):
            values.setdefault(str(each.get(key, "nothing")), []).append(who)
        if len(values) > 1:
            listed = sorted(values.items(), key=lambda entry: -len(entry[1]))
            text = ", ".join(f"{value} on {who[0]}" + (f" and {len(who) - 1} more" if len(who) > 1 else "") for value, who in listed)
            different.append(f"{key} is {text}")
    if different:
        return Finding.failed(check, "; ".join(different), remedy)
    return Finding.ok(check, f"equal on all {len(names)} ranks: {', '.join(mine)}")


def check_shared_folder(folder: Path, place: Place) -> Finding:
    """Check that each rank sees the files the others write in ``folder``; a collective.

    If the folder does not exist yet, its nearest existing parent is used.
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
    dist.barrier()  # no file is removed while another rank looks for it
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
    """Return the ranks whose files do not appear in time."""
    deadline = time.monotonic() + _VISIBLE_WITHIN
    while True:
        missing = [rank for rank, path in enumerate(paths) if not path.is_file() or path.read_text() != token]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.5)
