"""What a folder of shards is refused for, and what its index tells."""

import json

import pytest

from datamodules.shards import ShardError, ShardIndex, read_shard
from tests.datamodules.made_shards import SIZES, make_folder


def test_an_index_survives_saving(tmp_path):
    index = make_folder(tmp_path / "data")
    assert index.samples == 25
    assert {group: [shard.samples for shard in shards] for group, shards in index.groups.items()} == SIZES
    again = ShardIndex.load(tmp_path / "data")
    assert again == index and again.hashes == index.hashes


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("data/quickstart/train", "`mimdit shards quickstart {tmp_path}/data/quickstart`"),
        ("data/own/train", "`mimdit shards pairs`"),
        ("nowhere", "`mimdit shards foundir`"),
    ],
)
def test_a_missing_folder_is_named_with_the_command_that_writes_it(tmp_path, folder, command):
    with pytest.raises(ShardError) as caught:
        ShardIndex.load(tmp_path / folder)
    assert f"{tmp_path / folder} does not exist" in str(caught.value)
    assert command.format(tmp_path=tmp_path) in str(caught.value)


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(ShardError, match=r"index\.json is missing"):
        ShardIndex.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1, "shards": [{}], "options": {}}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ShardError, match=r"index\.json is not a shard index"):
        ShardIndex.load(tmp_path)


def test_another_schema_version_is_refused(tmp_path):
    make_folder(tmp_path / "data")
    path = tmp_path / "data" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(ShardError, match="schema version 99"):
        ShardIndex.load(tmp_path / "data")


def test_a_missing_shard_is_named(tmp_path):
    make_folder(tmp_path / "data")
    (tmp_path / "data" / "01Blur-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"01Blur-000001\.tar is listed .* but missing"):
        ShardIndex.load(tmp_path / "data")


def test_a_shard_cut_short_is_named_with_both_sizes(tmp_path):
    make_folder(tmp_path / "data")
    path = tmp_path / "data" / "01Blur-000001.tar"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ShardError, match=rf"01Blur-000001\.tar has 5000 bytes .* lists {whole}.*cut short"):
        ShardIndex.load(tmp_path / "data")


def test_a_shard_cut_short_after_the_check_is_noticed_by_its_count(tmp_path):
    index = make_folder(tmp_path / "data")
    path = tmp_path / "data" / "01Blur-000000.tar"
    path.write_bytes(path.read_bytes()[:5120])
    with pytest.raises(ShardError, match=r"01Blur-000000\.tar"):
        list(read_shard(path, samples=index.groups["01Blur"][0].samples))


@pytest.mark.parametrize("count, expected", [(1, [1, 0, 0]), (4, [2, 1, 1]), (12, [3, 5, 4]), (25, [3, 15, 7]), (99, [3, 15, 7])])
def test_the_first_samples_are_spread_over_the_groups(tmp_path, count, expected):
    first = make_folder(tmp_path / "data").first(count)
    assert [sum(shard.samples for shard in first.groups.get(group, [])) for group in SIZES] == expected
