"""A user error is shown as one paragraph; a bug keeps its traceback."""

import json
import os
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mimdit.core import user_errors
from mimdit.core.user_errors import message_to_user, user_errors_in_one_paragraph


@pytest.fixture(autouse=True)
def these_tests_are_ours(monkeypatch):
    monkeypatch.setattr(user_errors, "_OURS", (str(Path(__file__).parent) + os.sep,))


def refuse() -> None:
    raise ValueError("k = 5 is above E = 4;\n    choose k <= 4")


def stumble() -> None:
    int("five")


def misread() -> None:
    json.loads("{")


def open_nothing() -> None:
    Path("no/such.tar").read_bytes()


def chain() -> None:
    try:
        stumble()
    except ValueError as error:
        raise ValueError("steps must be a number") from error


class Rows(Dataset):
    """One row, which cannot be read."""

    def __init__(self, fail) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        self.fail()
        return index


def load_in_worker(fail) -> None:
    next(iter(DataLoader(Rows(fail), num_workers=1)))


def caught(function, *args) -> Exception:
    with pytest.raises((ValueError, OSError)) as info:
        function(*args)
    return info.value


def test_what_we_raise_is_the_users_in_one_paragraph():
    assert message_to_user(caught(refuse)) == "k = 5 is above E = 4; choose k <= 4"
    assert message_to_user(caught(chain)) == "steps must be a number"


def test_a_file_the_system_refuses_is_named():
    assert "no/such.tar" in message_to_user(caught(open_nothing))


@pytest.mark.parametrize("bug", [stumble, misread])
def test_what_python_or_a_library_raises_is_a_bug(bug):
    assert message_to_user(caught(bug)) is None


def test_a_workers_error_is_judged_as_if_it_were_here():
    assert message_to_user(caught(load_in_worker, refuse)) == "k = 5 is above E = 4; choose k <= 4"
    assert message_to_user(caught(load_in_worker, chain)) == "steps must be a number"
    assert message_to_user(caught(load_in_worker, stumble)) is None


def test_a_raise_outside_our_packages_is_not_ours(monkeypatch):
    monkeypatch.setattr(user_errors, "_OURS", ("/elsewhere/",))
    assert message_to_user(caught(refuse)) is None


def test_only_the_users_mistakes_end_the_program(capsys, monkeypatch):
    monkeypatch.delenv("MIMDIT_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as end, user_errors_in_one_paragraph():
        refuse()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: k = 5 is above E = 4; choose k <= 4\n")
    with pytest.raises(ValueError), user_errors_in_one_paragraph():
        stumble()
