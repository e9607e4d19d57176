"""Files are seen whole or not at all."""

import pytest

from mimdit.files import replace_when_whole


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
