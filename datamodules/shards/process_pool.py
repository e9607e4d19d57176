"""Run independent tasks in spawned processes of one thread each."""

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

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Result]]:
    """Call ``function`` on every task and yield each task with its result once it is done; tasks start in their order.

    The first error ends the work: running tasks are completed, the others do not start. The error is raised again here,
    with the traceback of the other process as a note.

    Args:
        function: A module-level function; it and the tasks are pickled.
        tasks: Its arguments.
        workers: Processes, each with one thread; 1 runs the tasks in this process.

    Raises:
        ValueError: ``workers`` is below 1.
        ChildProcessError: A process was killed.
        RuntimeError: A task raised an error that cannot be pickled; the message has its traceback.
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
                f"A worker process was killed, most likely because memory ran out. Give fewer workers than {workers}."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Limit a process to one thread, and end it if its parent is killed; otherwise it would wait for work forever."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "only a spawned process waits for its parent"
    parent.join()
    os._exit(1)


@dataclass(frozen=True)
class _Failure:
    """An error of another process: Python loses its traceback, and cannot unpickle every exception."""

    error: Exception | None
    text: str


def _guarded(function: Callable[[Task], Result], task: Task) -> Result | _Failure:
    """Call the function in the other process, and return its error as a value."""
    try:
        return function(task)
    except Exception as error:  # raised by `_result` in the parent
        return _Failure(error if _survives_pickling(error) else None, traceback.format_exc())


def _survives_pickling(error: Exception) -> bool:
    try:
        return str(pickle.loads(pickle.dumps(error))) == str(error)
    except Exception:  # pickling runs the code of its class, which may raise anything
        return False


def _result(result: Result | _Failure) -> Result:
    if not isinstance(result, _Failure):
        return result
    if result.error is None:
        raise RuntimeError(f"A worker process failed:\n{result.text}")
    result.error.add_note(f"In a worker process:\n{result.text}")
    raise result.error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limit processes started in this block to one thread each; the variables must be set before numpy loads."""
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
