"""A parallel conversion that is killed at any moment and begun again ends as one that never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.datamodules.conversion.made_conversion import content, converted
from tests.datamodules.made_sources import made_pairs, write_archives

KILLS = 5
_ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """About 20 MB in volumes, some 20 shards."""
    return write_archives(tmp_path_factory.mktemp("archives"), made_pairs(count=60, side=224), "1m")


@pytest.fixture(scope="module")
def whole(archives, tmp_path_factory):
    """The folder of a conversion that was not killed, in one process."""
    return content(converted(archives, tmp_path_factory.mktemp("whole") / "data"))


def started(archives: Path, folder: Path) -> subprocess.Popen:
    """Start a conversion in three processes, which with their parent are a process group."""
    command = [sys.executable, "-m", "mimdit", "shards", "foundir", str(archives), str(folder), "--shard_size=1", "--workers=3"]
    return subprocess.Popen(command, cwd=_ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_shards(running: subprocess.Popen, folder: Path, count: int) -> None:
    """Return as soon as ``count`` shards are whole: progress, not time, so that a fast machine is not killed too late."""
    while running.poll() is None and len(list(folder.glob("*.tar"))) < count:
        time.sleep(0.005)


@pytest.mark.long
@pytest.mark.parametrize("number", range(KILLS))
def test_begun_again_after_a_kill(archives, whole, tmp_path, number):
    folder = tmp_path / "data"
    running = started(archives, folder)
    if number == 0:
        time.sleep(random.Random(number).uniform(0, 10))  # at the start
    else:
        wait_for_shards(running, folder, 2 * number)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert number == 0 or content(folder) != whole
    assert content(converted(archives, folder)) == whole


@pytest.mark.long
def test_processes_end_when_only_their_parent_is_killed(archives, tmp_path):
    running = started(archives, tmp_path / "data")
    wait_for_shards(running, tmp_path / "data", 1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(running.pid, 0)
            time.sleep(0.1)
    assert any((tmp_path / "data").glob("*.tar"))
