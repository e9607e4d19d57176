"""Signals held back in a process of its own: nothing interrupts it, its children outlive them, and it still ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = "import os, signal, time, threading, multiprocessing\nfrom mimdit import stop_signals\n"


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_both_are_kept_and_sigterm_counts():
    done = run(
        "stop_signals.hold(); print(stop_signals.received())\n"
        "for number in stop_signals.SIGNALS: os.kill(os.getpid(), number); print(stop_signals.received().name)"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["None", "SIGUSR1", "SIGTERM"]), done.stderr


def test_a_thread_that_was_there_before_hears_it_for_the_others():
    done = run(
        "thread = threading.Thread(target=time.sleep, args=(1,)); thread.start()\n"
        "stop_signals.hold(); signal.pthread_kill(thread.ident, signal.SIGUSR1); time.sleep(0.1); print(stop_signals.received().name)"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["SIGUSR1"]), done.stderr


def test_children_outlive_them_and_are_ended_at_exit():
    done = run(
        "stop_signals.hold()\n"
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(100,), daemon=True); child.start()\n"
        "for number in stop_signals.SIGNALS: os.kill(child.pid, number)\n"
        "child.join(0.3); print(child.is_alive())"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["True"]), done.stderr


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_released_they_do_what_they_would_have_done(sent):
    assert run(f"stop_signals.hold(); os.kill(os.getpid(), {int(sent)}); stop_signals.release()").returncode == -sent


def test_release_without_hold_changes_nothing():
    done = run("signal.signal(signal.SIGTERM, signal.SIG_IGN); stop_signals.release(); os.kill(os.getpid(), signal.SIGTERM)")
    assert done.returncode == 0
