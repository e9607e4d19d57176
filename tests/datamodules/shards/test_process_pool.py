"""Work in other processes: its results, and its errors as if they had been raised here."""

import os
import shutil
from pathlib import Path

import pytest

from datamodules.shards import Sidecar
from datamodules.shards.process_pool import in_processes
from mimdit.core.user_errors import message_to_user
from tests.datamodules.made_shards import make_folder


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raise_unpicklable(task):
    raise Unpicklable(task, None)


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


def test_an_error_carries_the_traceback_of_the_other_process():
    with pytest.raises(TypeError) as caught:
        list(in_processes(shutil.copyfile, [1, 2, 3], 2))
    assert "Traceback (most recent call last):" in caught.value.__notes__[0] and caught.value.__notes__[0].endswith(f"{caught.value}\n")


def test_a_library_s_value_error_stays_a_bug_and_ours_a_message(tars):
    with pytest.raises(ValueError, match="invalid literal") as bug:
        list(in_processes(int, ["1", "two"], 2))
    assert message_to_user(bug.value) is None
    tars[2].with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="is missing") as mistake:
        list(in_processes(Sidecar.load, tars, 2))
    assert message_to_user(mistake.value) == str(mistake.value)


def test_an_error_that_cannot_be_pickled_comes_as_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*Unpicklable: [12]"):
        list(in_processes(raise_unpicklable, [1, 2], 2))


def test_a_killed_process_is_told():
    with pytest.raises(ChildProcessError, match="fewer workers than 2"):
        list(in_processes(os._exit, [1, 1], 2))


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers is 0"):
        list(in_processes(os.getpid, [], 0))
