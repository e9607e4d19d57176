"""Signals that ask a run to stop, held back until the run looks: nothing is ever done in the middle of its work.

SIGUSR1 comes from Slurm before the time limit (``--signal=USR1@…``) and means: save, and you will be started again. SIGTERM comes from
``scancel``, from a requeue by the administrator and from a job of higher priority, and means: save if you can, the sender knows what is
next. Both are blocked, and a blocked signal stays pending with the kernel: there is no handler to interrupt a collective or a system call
(c10d's rendezvous gives up when one is), and nothing is lost while Python still imports. Processes that a run starts inherit the mask, so
data loader workers outlive the signals, which Slurm sends to every process of a job.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import active_children
from multiprocessing.util import Finalize

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

VARIABLE = "MIMDIT_HOLD_SIGNALS"
"""Environment variable that has `mimdit fit` hold the signals from its first line on: ``slurm/train.sbatch`` sets it to 1."""

_handled: set[int] = set()
_finalizer: list[Finalize] = []


def hold_if_told() -> None:
    """Hold the signals if the environment says so."""
    if os.environ.get(VARIABLE) == "1":
        hold()


def hold() -> None:
    """Hold `SIGNALS` back, for this thread and what it starts from now on; call it from the main thread, as often as you like.

    Threads that exist already let them through; for those a handler remembers them, and does nothing else.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be held from the main thread only; fit there, or leave callbacks.Preemption out")
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _handled.add(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if not _finalizer:
        _finalizer.append(Finalize(None, _end_children, exitpriority=0))


def release() -> None:
    """Undo `hold`, if it was called: one that came meanwhile ends the process now, as is the default."""
    if not _finalizer:
        return
    _finalizer.pop().cancel()
    came = received()
    _handled.clear()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if came is not None:
        signal.raise_signal(came)


def received() -> signal.Signals | None:
    """The signal that came since `hold`; of both, SIGTERM, whose sender knows better than the clock."""
    came = [number for number in SIGNALS if number in _handled or number in signal.sigpending()]
    return came[-1] if came else None


def _end_children() -> None:
    """At exit multiprocessing sends SIGTERM to what is left of data loader workers and waits for them: they would not hear it."""
    if children := active_children():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would complain of their death
        for child in children:
            child.kill()
