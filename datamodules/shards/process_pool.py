"""Independent pieces of work in spawned processes of one thread each."""

import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import TypeVar

import cv2

from mimdit.core.user_errors import message_to_user

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Call ``function`` with every task and yield each with its result when it is done; tasks are begun in their order.

    The first error ends it: tasks that have begun are finished, the others are not begun. An error that is the user's to mend is raised
    here as it was raised there.

    Args:
        function: A function of a module; it and the tasks are pickled.
        tasks: What to call it with.
        workers: Processes, each with one thread; 1 works in this process.

    Raises:
        ValueError: ``workers`` is below 1.
        ChildProcessError: A process was killed.
        RuntimeError: A bug, with its traceback in the other process.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1.")
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, function(task)
        return
    # Spawned, not forked: OpenCV's and torch's thread pools do not survive a fork.
    spawn = get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(min(workers, len(tasks)), mp_context=spawn, initializer=_begin) as pool:
        running = {pool.submit(_guarded, function, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running.pop(future), _result(future.result())
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"A worker process was killed, most likely because the memory was used up. Give fewer workers than {workers}."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Prepare a process: one thread, and an end when the process that started it was killed, as it would wait for work for ever."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


@dataclass(frozen=True)
class _Failure:
    """What a process hands over instead of an exception: Python loses the place it was raised at, and cannot unpickle every one."""

    error: Exception | None
    text: str


def _guarded(function: Callable[[Task], Result], task: Task) -> Result | _Failure:
    """Call the function in the other process."""
    try:
        return function(task)
    except Exception as error:  # every error is handed over
        return _Failure(error if message_to_user(error) is not None and _survives_pickling(error) else None, traceback.format_exc())


def _survives_pickling(error: Exception) -> bool:
    try:
        return str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:  # whatever its class does on the way, it does not survive
        return False


def _result(result: Result | _Failure) -> Result:
    if not isinstance(result, _Failure):
        return result
    if result.error is None:
        raise RuntimeError(f"A worker process failed:\n{result.text}")
    raise result.error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread each; the variables must be set before numpy loads."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
