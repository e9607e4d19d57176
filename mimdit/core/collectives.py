"""Collectives: gather objects over ranks, act on rank 0, save a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from mimdit.core.connected_trainer import connected

Result = TypeVar("Result")


def gather(own: Any) -> list[Any]:
    """Return the object ``own`` of every rank, in the order of ranks, on all of them; ``[own]`` without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def largest(values: torch.Tensor) -> torch.Tensor:
    """Return the elementwise maximum of ``values`` over all ranks, on their device; ``values`` may be overwritten.

    One all-reduce. Lightning's ``strategy.reduce`` puts a barrier before it, for which the host waits.
    """
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def largest_on_host(value: int) -> int:
    """Return the maximum of an integer over all ranks, exchanged between the hosts: no device is waited for."""
    return start_largest_on_host(value)()


def start_largest_on_host(value: int) -> Callable[[], int]:
    """Start `largest_on_host`; return the function that waits for its result."""
    if not (dist.is_available() and dist.is_initialized()):
        return lambda: value
    number = torch.tensor(value)
    work = dist.all_reduce(number, op=dist.ReduceOp.MAX, group=_host_group(), async_op=True)
    assert work is not None, "this rank is in the group"

    def result() -> int:
        work.wait()
        return int(number)

    return result


_groups: dict[str, Any] = {}
"""The default process group, and the group of all ranks for tensors on the CPU that was made beside it."""


def _host_group() -> Any:
    """Return a group of all ranks for tensors on the CPU, made at the first call, which all ranks make together."""
    world = dist.group.WORLD
    if _groups.get("world") is not world:
        _groups.update(world=world, host=world if dist.get_backend() == "gloo" else dist.new_group(backend="gloo"))
    return _groups["host"]


def on_rank_zero(action: Callable[[], Result]) -> Result:
    """Run ``action`` on rank 0 while the others wait; return its result, or raise its error, on all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return action()
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome = [action(), None]
        except Exception as error:  # raised below, on every rank
            outcome = [None, error]
    dist.broadcast_object_list(outcome, 0)
    result, failure = outcome
    if failure is not None:
        raise failure
    return result


def save_together(trainer: L.Trainer, path: str | Path) -> None:
    """Save a checkpoint as `Trainer.save_checkpoint` does, but raise on every rank if one cannot write.

    If rank 0 writes for all, Lightning's method raises only there, and the other ranks wait until the process group times out.

    Raises:
        OSError: A rank could not write; raised on every rank.
    """
    with connected(trainer).profiler.profile("save_checkpoint"):
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
        failure = None
        try:
            trainer.strategy.save_checkpoint(checkpoint, path)
        except OSError as error:
            failure = error
        failures = [error for error in gather(failure) if error is not None]
    if failures:
        raise failures[0]


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return the slice of a `DTensor` that this rank holds, without communication; any other tensor is returned as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
