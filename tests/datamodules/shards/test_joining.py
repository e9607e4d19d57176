"""One folder of shards from several."""

import pytest

from datamodules.shards import ShardError, ShardIndex, read_shard
from datamodules.shards.joining import join_folders
from mimdit import cli
from mimdit.commands.shards import join


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders with shards of the same names and other images."""
    root = tmp_path_factory.mktemp("folders")
    for name, images, seed in (("one", 42, 1), ("two", 21, 2)):
        options = ("--size=16", "--photograph_size=16", "--draws=1", "--severities=[0.5]", "--workers=1", "--shard_size=1")
        cli.main(["shards", "quickstart", str(root / name), f"--train_images={images}", f"--seed={seed}", *options])
    return [root / "one" / "train", root / "two" / "train"]


def contents(folder):
    index = ShardIndex.load(folder)
    return sorted(sample.lq for shard in index.shards for sample in read_shard(index.path(shard), samples=shard.samples))


def test_all_samples_are_there_under_numbers_of_their_own(folders, tmp_path, capsys):
    cli.main(["shards", "join", str(tmp_path / "all"), *map(str, folders)])
    assert "all" in capsys.readouterr().out
    index = ShardIndex.load(tmp_path / "all")
    assert index.samples == 63 and contents(tmp_path / "all") == sorted(contents(folders[0]) + contents(folders[1]))
    numbers = [int(shard.name[-10:-4]) for shard in index.groups["08Haze"]]
    assert numbers == list(range(len(numbers)))
    cli.main(["shards", "verify", str(tmp_path / "all"), "--decode", "--workers=1"])
    assert [options["seed"] for options in index.options["joined"]] == [1, 2]


def test_an_interrupted_call_is_continued_and_a_finished_one_changes_nothing(folders, tmp_path):
    whole = join_folders(tmp_path / "whole", folders)
    part = tmp_path / "part"
    part.mkdir()
    for name in ("00Clean-000000.tar", "01Blur-000000.tar", "01Blur-000000.json"):  # the first without its sidecar
        (part / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    assert join_folders(part, folders).shards == whole.shards == join_folders(part, folders).shards


def test_where_links_are_impossible_tars_are_copied(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("another file system")))
    join_folders(tmp_path / "all", folders)
    assert contents(tmp_path / "all") == sorted(contents(folders[0]) + contents(folders[1]))


def test_a_folder_with_other_shards_and_a_source_as_destination_are_refused(folders, tmp_path):
    join_folders(tmp_path / "two", folders[1:])
    with pytest.raises(ShardError, match="holds other shards, such as .*Give an empty folder"):
        join_folders(tmp_path / "two", folders[:1])
    with pytest.raises(ShardError, match="is one of the folders to join"):
        join_folders(folders[0], folders)
    with pytest.raises(ShardError, match="No folder to join"):
        join(str(tmp_path / "none"))
