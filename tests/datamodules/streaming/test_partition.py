"""Cutting the line: every sample once in each epoch, whatever the consumers and however often their number changes."""

import itertools
from collections import Counter

import numpy as np
import pytest

from datamodules.streaming.partition import Laps


def positions_of(laps: Laps, lap: int, consumer: int, consumers: int, offset: int = 0) -> list[tuple[int, int]]:
    return [(epoch, place) for epoch, start, stop in laps.ranges(lap, consumer, consumers, offset) for place in range(start, stop)]


@pytest.mark.parametrize("consumers", [1, 2, 4, 7, 40])
def test_slices_cover_an_epoch_and_rotate(consumers):
    laps = Laps(25)
    for epoch in range(3):
        slices = [positions_of(laps, epoch, consumer, consumers) for consumer in range(consumers)]
        assert sorted(itertools.chain(*slices)) == [(epoch, place) for place in range(25)]
        later = positions_of(laps, epoch + 1, 0, consumers)
        assert [place for _, place in positions_of(laps, epoch, 1 % consumers, consumers)] == [place for _, place in later]


def advance(laps: Laps, position: tuple[int, int], consumer: int, consumers: int, count: int) -> tuple[list, tuple[int, int]]:
    """Read ``count`` samples from a position on, as a stream does."""
    read, (lap, offset) = [], position
    while len(read) < count:
        here = positions_of(laps, lap, consumer, consumers, offset)[: count - len(read)]
        read, offset = read + here, offset + len(here)
        if len(read) < count:
            lap, offset = lap + 1, 0
    return read, (lap, offset)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_repeats_and_nothing_is_lost_over_many_changes_of_their_number(seed):
    rng = np.random.default_rng(seed)
    laps, seen = Laps(int(rng.integers(5, 60))), []
    for _ in range(5):
        consumers = int(rng.integers(1, 9))
        positions = [(laps.first, 0)] * consumers
        for consumer in range(consumers):
            read, positions[consumer] = advance(laps, positions[consumer], consumer, consumers, int(rng.integers(0, 40)))
            seen += read
        laps = laps.recut(positions)
        laps = Laps.from_state_dict(laps.state_dict())
    seen += [place for consumer in range(3) for place in positions_of(laps, laps.first_epoch - 1, consumer, 3)] if laps.remainder else []
    assert Counter(seen) == Counter((epoch, place) for epoch in range(laps.first_epoch) for place in range(laps.length))


def test_a_remainder_of_adjacent_ranges_is_merged():
    laps = Laps(20).recut([(0, 5), (0, 0)])
    assert laps == Laps(20, ((0, 5, 20),), 1)
    assert laps.recut([(1, 3)]) == Laps(20, ((1, 3, 20),), 2)
