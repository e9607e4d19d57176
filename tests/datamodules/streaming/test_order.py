"""The order of the stream: whole, seekable, interleaved as documented."""

import itertools

import pytest

from datamodules.shards import ShardIndex
from datamodules.streaming.mixture import Mixture
from datamodules.streaming.order import SampleOrder
from tests.datamodules.made_shards import keys_of, make_folder


@pytest.fixture(scope="module")
def order(tmp_path_factory) -> SampleOrder:
    return SampleOrder(make_folder(tmp_path_factory.mktemp("order") / "data"), seed=3)


def read(order: SampleOrder, epoch: int, start: int = 0, stop: int = 25) -> list[str]:
    return [use.sample.key for use in order.read(epoch, start, stop)]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_shows_every_sample_once(order, epoch):
    assert sorted(read(order, epoch)) == keys_of()


def test_any_range_equals_the_same_range_of_the_whole(order):
    whole = read(order, 2)
    for start, stop in itertools.combinations(range(26), 2):
        assert read(order, 2, start, stop) == whole[start:stop]


def test_epochs_and_seeds_differ_and_repeat(order):
    assert read(order, 0) != read(order, 1)
    assert read(order, 0) != read(SampleOrder(order.index, seed=4), 0)
    assert read(order, 0) == read(SampleOrder(ShardIndex.load(order.index.folder), seed=3), 0)


def test_shards_are_permuted_and_so_are_the_samples_inside_each(order):
    shard_orders, sample_orders = set(), set()
    for epoch in range(40):
        blur = [int(key.split("/")[1]) for key in read(order, epoch) if key.startswith("01Blur")]
        shards = [sorted(part) for part in (range(0, 5), range(5, 9), range(9, 15))]
        shard_order = sorted(range(3), key=lambda shard: min(blur.index(number) for number in shards[shard]))
        read_shards = [blur[sum(len(shards[s]) for s in shard_order[:i]) :][: len(shards[s])] for i, s in enumerate(shard_order)]
        assert [sorted(part) for part in read_shards] == [shards[s] for s in shard_order]  # one shard after the other
        shard_orders.add(tuple(shard_order))
        sample_orders.add(tuple(read_shards[shard_order.index(0)]))
    assert len(shard_orders) == 6 and len(sample_orders) > 20


def test_quotas_continue_each_groups_order_over_repeats(order):
    mixture = Mixture({"01Blur": 4, "09Lowlight_Haze": 10}, {"01Blur": 3}, first_epoch=0)
    mixed = SampleOrder(order.index, mixture, seed=3)
    whole = {group: [use for epoch in range(9) for use in order.read(epoch, 0, 25) if use.group == group] for group in mixture.quotas}
    for group, start in (("01Blur", 3), ("09Lowlight_Haze", 0)):
        drawn = [use for epoch in range(3) for use in mixed.read(epoch, 0, 14) if use.group == group]
        assert len(drawn) == 3 * mixture.quotas[group]
        assert drawn == whole[group][start : start + len(drawn)]
    assert len({use.repeat for epoch in range(3) for use in mixed.read(epoch, 0, 14)}) > 3


def test_a_composed_group_has_an_order_of_its_own(order):
    composed = SampleOrder(order.index, seed=3, sources={"18Lowlight_Blur_Noise": "01Blur"})
    uses = list(composed.read(0, 0, 40))
    own = [use.sample.key for use in uses if use.group == "18Lowlight_Blur_Noise"]
    others = [use.sample.key for use in uses if use.group == "01Blur"]
    assert len(composed) == 40 and sorted(own) == sorted(others) and own != others


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no samples"):
        SampleOrder(make_folder(tmp_path / "data", {}), seed=0)
