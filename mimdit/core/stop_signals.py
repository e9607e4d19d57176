"""Stop signals, held back until the run checks for them, so that no work is interrupted.

Slurm sends SIGUSR1 before the time limit (``--signal=USR1@…``); on it, the job saves and restarts. SIGTERM comes from ``scancel``, a
requeue by the administrator or a job of higher priority; on it, the job saves if there is time. Both are blocked, and the kernel keeps a
blocked signal pending. So no handler interrupts a collective or a system call (c10d's rendezvous fails if one does), and no signal is lost
while Python imports. Processes started by the run inherit the mask, so data loader workers survive the signals, which Slurm sends to every
process of a job.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import active_children
from multiprocessing.util import Finalize

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

VARIABLE = "MIMDIT_HOLD_SIGNALS"
"""Environment variable that makes ``mimdit fit`` hold the signals from its first line if it is 1; ``slurm/train.sbatch`` sets it."""

_handled: set[int] = set()
_finalizer: list[Finalize] = []


def hold_if_requested() -> None:
    """Hold the signals if the environment variable `VARIABLE` is 1."""
    if os.environ.get(VARIABLE) == "1":
        hold()


def hold() -> None:
    """Block `SIGNALS` for the main thread and the threads and processes it starts from now on; repeated calls have no effect.

    Threads that already exist do not block them; for those, a handler records the signal and does nothing else.

    Raises:
        ValueError: The calling thread is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be held only from the main thread; call fit there, or remove callbacks.Preemption")
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _handled.add(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if not _finalizer:
        _finalizer.append(Finalize(None, _end_children, exitpriority=0))


def release() -> None:
    """Undo `hold` if it was called; a signal received in the meantime then ends the process, as by default."""
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
    """Return the signal received since `hold`, or None; SIGTERM takes precedence over SIGUSR1."""
    came = [number for number in SIGNALS if number in _handled or number in signal.sigpending()]
    return came[-1] if came else None


def _end_children() -> None:
    """Kill remaining data loader workers at exit: multiprocessing would send them SIGTERM, which they block, and wait for them."""
    if children := active_children():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would report their death as an error
        for child in children:
            child.kill()
