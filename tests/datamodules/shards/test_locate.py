"""What a config may name: a folder, several, globs of folders and of tars."""

import pytest

from datamodules.shards import ShardError, ShardStore, open_index, shard_place, sidecar_of
from tests.datamodules.made_shards import SIZES, make_folder


def test_a_folder_is_its_index(tmp_path):
    index = make_folder(tmp_path / "data")
    assert open_index(str(tmp_path / "data"), ShardStore()).shards == index.shards


def test_a_glob_of_tars_takes_those_shards_alone(tmp_path):
    make_folder(tmp_path / "data")
    index = open_index(str(tmp_path / "data" / "0[01]*.tar"), ShardStore())
    assert {group: [shard.samples for shard in shards] for group, shards in index.groups.items()} == {
        group: SIZES[group] for group in ("00Clean", "01Blur")
    }
    with pytest.raises(ShardError, match=r"matches 02\*\.tar. Its groups: 00Clean, 01Blur, 09Lowlight_Haze"):
        open_index(str(tmp_path / "data" / "02*.tar"), ShardStore())


@pytest.mark.parametrize("listed", [True, False])
def test_several_folders_are_joined_and_each_shard_is_found_at_home(tmp_path, listed):
    first = make_folder(tmp_path / "part-1", {"01Blur": [2, 3]})
    second = make_folder(tmp_path / "part-2", {"05Noise": [4]})
    places = [str(tmp_path / "part-1"), str(tmp_path / "part-2")] if listed else str(tmp_path / "part-*")
    index = open_index(places, ShardStore())
    assert index.samples == 9 and sorted(index.groups) == ["01Blur", "05Noise"]
    homes = {shard_place(index, shard) for shard in index.shards}
    assert homes == {str(folder.path(shard)) for folder in (first, second) for shard in folder.shards}
    assert [len(sidecar_of(index, shard, ShardStore()).spans) for shard in index.shards] == [2, 3, 4]


def test_shards_of_one_name_in_two_folders_are_refused(tmp_path):
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "b")
    with pytest.raises(ShardError, match="both have a shard 00Clean-000000.tar"):
        open_index([str(tmp_path / "a"), str(tmp_path / "b")], ShardStore())


def test_a_glob_that_matches_nothing_and_an_empty_list_are_named(tmp_path):
    with pytest.raises(ShardError, match="nothing-.* matches no folder of shards"):
        open_index(str(tmp_path / "nothing-*"), ShardStore())
    with pytest.raises(ShardError, match="No folder of shards is named"):
        open_index([], ShardStore())


def test_a_sidecar_of_another_tar_is_noticed(tmp_path):
    index = make_folder(tmp_path / "data")
    (tmp_path / "data" / "01Blur-000002.json").write_bytes((tmp_path / "data" / "01Blur-000001.json").read_bytes())
    with pytest.raises(ShardError, match="lists 4 samples, the index 6"):
        sidecar_of(index, index.groups["01Blur"][2], ShardStore())
