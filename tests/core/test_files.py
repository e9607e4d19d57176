"""Files are seen whole or not at all."""

import errno
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from mimdit.core.files import replace_when_whole


def test_a_whole_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with replace_when_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # a rename across file systems is no rename
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replace_when_whole(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_fails_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replace_when_whole(path):
        pass
    assert path.read_text() == "old"


def test_a_private_file_becomes_as_readable_as_any_other(tmp_path):
    (tmp_path / "other").write_text("")
    with replace_when_whole(tmp_path / "file") as path:
        path.write_text("")
        path.chmod(0o600)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_the_file_is_synced_and_renamed_before_its_folder_is_synced(tmp_path, monkeypatch):
    path, synced = tmp_path / "result.txt", []
    sync = os.fsync

    def record(descriptor):
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with replace_when_whole(path) as temporary:
        temporary.write_text("new")
    assert synced == [(temporary, False), (tmp_path, True)]


@pytest.mark.parametrize("code, survives", [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch, code, survives):
    sync = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with nullcontext() if survives else pytest.raises(OSError), replace_when_whole(tmp_path / "result.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "result.txt").read_text() == "new"


def test_two_who_write_at_once_do_not_disturb_each_other(tmp_path):
    with replace_when_whole(tmp_path / "result.txt") as first, replace_when_whole(tmp_path / "result.txt") as second:
        first.write_text("same")
        second.write_text("same")
    assert (tmp_path / "result.txt").read_text() == "same" and list(tmp_path.iterdir()) == [tmp_path / "result.txt"]
