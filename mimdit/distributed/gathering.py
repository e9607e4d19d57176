"""Gathering what each rank has to say."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def gather(own: Any) -> list[Any]:
    """Every rank's ``own``, in the order of ranks and on all of them; without a process group only this one's."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone
