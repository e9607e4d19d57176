"""Cutting the order: every sample once in each epoch, whatever the consumers and however often their number changes."""

import itertools
from collections import Counter

import numpy as np
import pytest

from datamodules.streaming.partition import Partition


def positions_of(partition: Partition, number: int, consumer: int, consumers: int, offset: int = 0) -> list[tuple[int, int]]:
    return [(epoch, place) for epoch, start, stop in partition.ranges(number, consumer, consumers, offset) for place in range(start, stop)]


@pytest.mark.parametrize("consumers", [1, 2, 4, 7, 40])
def test_slices_cover_an_epoch_and_rotate(consumers):
    partition = Partition(25)
    for epoch in range(3):
        slices = [positions_of(partition, epoch, consumer, consumers) for consumer in range(consumers)]
        assert sorted(itertools.chain(*slices)) == [(epoch, place) for place in range(25)]
        later = positions_of(partition, epoch + 1, 0, consumers)
        assert [place for _, place in positions_of(partition, epoch, 1 % consumers, consumers)] == [place for _, place in later]


def advance(partition: Partition, position: tuple[int, int], consumer: int, consumers: int, count: int) -> tuple[list, tuple[int, int]]:
    """Read ``count`` samples from a position on, as a stream does."""
    read, (pass_number, offset) = [], position
    while len(read) < count:
        here = positions_of(partition, pass_number, consumer, consumers, offset)[: count - len(read)]
        read, offset = read + here, offset + len(here)
        if len(read) < count:
            pass_number, offset = pass_number + 1, 0
    return read, (pass_number, offset)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_repeats_and_nothing_is_lost_over_many_changes_of_their_number(seed):
    rng = np.random.default_rng(seed)
    partition, seen = Partition(int(rng.integers(5, 60))), []
    for _ in range(5):
        consumers = int(rng.integers(1, 9))
        positions = [(partition.first, 0)] * consumers
        for consumer in range(consumers):
            read, positions[consumer] = advance(partition, positions[consumer], consumer, consumers, int(rng.integers(0, 40)))
            seen += read
        partition = partition.recut(positions)
        partition = Partition.from_state_dict(partition.state_dict())
    if partition.remainder:
        seen += [place for consumer in range(3) for place in positions_of(partition, partition.first_epoch - 1, consumer, 3)]
    assert Counter(seen) == Counter((epoch, place) for epoch in range(partition.first_epoch) for place in range(partition.length))


def test_a_remainder_of_adjacent_ranges_is_merged():
    partition = Partition(20).recut([(0, 5), (0, 0)])
    assert partition == Partition(20, ((0, 5, 20),), 1)
    assert partition.recut([(1, 3)]) == Partition(20, ((1, 3, 20),), 2)
