"""The order of the stream: whole, seekable, interleaved as documented."""

import itertools

import pytest

from datamodules.line import Line
from datamodules.shards import ShardIndex
from tests.datamodules.made_shards import SIZES, keys_of, make_folder


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Line:
    return Line(make_folder(tmp_path_factory.mktemp("line") / "data"), seed=3)


def read(line: Line, epoch: int, start: int = 0, stop: int = 25) -> list[str]:
    return [sample.key for sample in line.read(epoch, start, stop)]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_shows_every_sample_once(line, epoch):
    assert sorted(read(line, epoch)) == keys_of()


def test_any_range_equals_the_same_range_of_the_whole(line):
    whole = read(line, 2)
    for start, stop in itertools.combinations(range(26), 2):
        assert read(line, 2, start, stop) == whole[start:stop]


def test_epochs_and_seeds_differ_and_repeat(line):
    assert read(line, 0) != read(line, 1)
    assert read(line, 0) != read(Line(line.index, seed=4), 0)
    assert read(line, 0) == read(Line(ShardIndex.load(line.index.folder), seed=3), 0)


def test_shards_are_permuted_and_read_in_stored_order(line):
    orders = set()
    for epoch in range(30):
        blur = [int(key.split("/")[1]) for key in read(line, epoch) if key.startswith("01Blur")]
        shards = [range(0, 5), range(5, 9), range(9, 15)]
        order = tuple(sorted(range(3), key=lambda shard: blur.index(shards[shard][0])))
        assert blur == [number for shard in order for number in shards[shard]]
        orders.add(order)
    assert len(orders) == 6


@pytest.mark.parametrize("consumers", [1, 2, 4, 7, 40])
def test_slices_cover_an_epoch_and_rotate(line, consumers):
    for epoch in range(3):
        slices = sorted(line.bounds(epoch, consumer, consumers) for consumer in range(consumers))
        assert slices[0][0] == 0 and slices[-1][1] == sum(map(sum, SIZES.values()))
        assert all(before[1] == after[0] for before, after in itertools.pairwise(slices))
        assert line.bounds(epoch, 1 % consumers, consumers) == line.bounds(epoch + 1, 0, consumers)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no samples"):
        Line(make_folder(tmp_path / "data", {}), seed=0)
