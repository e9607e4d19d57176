"""Being asked to stop, over all ranks: they agree on it, save together and leave together."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import Strategy

from mimdit.core import stop_signals

EXIT_CODES = {signal.SIGUSR1: 85, signal.SIGTERM: 128 + signal.SIGTERM}
"""What a run that saved and stopped returns: 85 says "start me again", 143 is that of any process that SIGTERM ended."""


class Preempted(SystemExit):
    """Ends a run that was asked to stop and has saved; ``code`` is one of `EXIT_CODES`."""


def agreed_exit_code(strategy: Strategy) -> int | None:
    """What all ranks will leave with if any of them was asked to stop, else None; every rank must call this at the same point."""
    received = stop_signals.received()
    code = torch.tensor(0 if received is None else EXIT_CODES[received], device=strategy.root_device)
    return int(strategy.reduce(code, reduce_op="max")) or None


def leave_together(code: int) -> NoReturn:
    """End this process when every rank is about to, without Python's own clearing up, which takes each rank its own time.

    ``srun --kill-on-bad-exit`` kills the rest once one has left with another code than 0, and would report that instead of ours.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
