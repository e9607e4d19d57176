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
