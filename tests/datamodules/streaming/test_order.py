"""The order of the stream: whole, seekable, interleaved as documented."""

import itertools

import pytest

from datamodules.shards import ShardIndex
from datamodules.streaming.mixture import Mixture
from datamodules.streaming.order import Line
from tests.datamodules.made_shards import keys_of, make_folder


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Line:
    return Line(make_folder(tmp_path_factory.mktemp("line") / "data"), seed=3)


def read(line: Line, epoch: int, start: int = 0, stop: int = 25) -> list[str]:
    return [draw.sample.key for draw in line.read(epoch, start, stop)]


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


def test_shards_are_permuted_and_so_are_the_samples_inside_each(line):
    shard_orders, sample_orders = set(), set()
    for epoch in range(40):
        blur = [int(key.split("/")[1]) for key in read(line, epoch) if key.startswith("01Blur")]
        shards = [sorted(part) for part in (range(0, 5), range(5, 9), range(9, 15))]
        order = sorted(range(3), key=lambda shard: min(blur.index(number) for number in shards[shard]))
        read_shards = [blur[sum(len(shards[s]) for s in order[:i]) :][: len(shards[s])] for i, s in enumerate(order)]
        assert [sorted(part) for part in read_shards] == [shards[s] for s in order]  # one shard after the other
        shard_orders.add(tuple(order))
        sample_orders.add(tuple(read_shards[order.index(0)]))
    assert len(shard_orders) == 6 and len(sample_orders) > 20


def test_quotas_continue_each_groups_line_over_passes(line):
    mixture = Mixture({"01Blur": 4, "09Lowlight_Haze": 10}, {"01Blur": 3}, first_epoch=0)
    mixed = Line(line.index, mixture, seed=3)
    whole = {group: [draw for epoch in range(9) for draw in line.read(epoch, 0, 25) if draw.group == group] for group in mixture.quotas}
    for group, start in (("01Blur", 3), ("09Lowlight_Haze", 0)):
        drawn = [draw for epoch in range(3) for draw in mixed.read(epoch, 0, 14) if draw.group == group]
        assert len(drawn) == 3 * mixture.quotas[group]
        assert drawn == whole[group][start : start + len(drawn)]
    assert len({draw.turn for epoch in range(3) for draw in mixed.read(epoch, 0, 14)}) > 3


def test_a_composed_group_has_a_line_of_its_own(line):
    composed = Line(line.index, seed=3, sources={"18Lowlight_Blur_Noise": "01Blur"})
    draws = list(composed.read(0, 0, 40))
    own = [draw.sample.key for draw in draws if draw.group == "18Lowlight_Blur_Noise"]
    others = [draw.sample.key for draw in draws if draw.group == "01Blur"]
    assert len(composed) == 40 and sorted(own) == sorted(others) and own != others


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no samples"):
        Line(make_folder(tmp_path / "data", {}), seed=0)
