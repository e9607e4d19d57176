"""Work in other processes: its results, and its errors as if they had been raised here."""

import os
import shutil
from pathlib import Path

import pytest

from datamodules.shards import Sidecar
from datamodules.shards.process_pool import in_processes
from tests.datamodules.made_shards import make_folder


@pytest.fixture
def tars(tmp_path) -> list[Path]:
    make_folder(tmp_path / "data")
    return sorted((tmp_path / "data").glob("*.tar"))


def test_results_come_with_their_tasks(tars):
    assert dict(in_processes(Sidecar.load, tars, 2)) == {tar: Sidecar.load(tar) for tar in tars}


def test_a_user_s_error_is_raised_here_as_it_was_there(tars):
    tars[2].with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=rf"{tars[2].name} is missing") as caught:
        list(in_processes(Sidecar.load, tars, 2))
    assert type(caught.value).__name__ == "ShardError"


def test_a_bug_comes_with_the_traceback_of_the_other_process():
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*TypeError"):
        list(in_processes(shutil.copyfile, [1, 2, 3], 2))


def test_a_killed_process_is_told():
    with pytest.raises(ChildProcessError, match="fewer workers than 2"):
        list(in_processes(os._exit, [1, 1], 2))


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers is 0"):
        list(in_processes(os.getpid, [], 0))
