"""Continuing the stream's state where the consumers are as many as before, but on other ranks."""

import pytest

from datamodules.streaming.mixture import Mixture
from datamodules.streaming.partition import Partition, Progress
from datamodules.streaming.schedule import MixtureSchedule
from datamodules.streaming.state import continue_stream, stream_state


@pytest.mark.parametrize("world_size, workers", [(1, 4), (4, 1)])
def test_as_many_consumers_on_other_ranks_keep_their_positions(caplog, world_size, workers):
    progress = Progress(2)
    quotas, hashes = {"01Blur": 20}, {"01Blur": "a"}
    state = stream_state(3, hashes, MixtureSchedule.of(Mixture(quotas)), Partition(20), progress)
    state["ranks"] = [{"turn": 1, "positions": [[0, 1], [0, 2]]}, {"turn": 0, "positions": [[0, 3], [1, 0]]}]
    found = []
    for rank in range(world_size):
        options = {"seed": 3, "hashes": hashes, "quotas": quotas, "workers": workers, "world_size": world_size, "rank": rank}
        mixtures, partition, continued = continue_stream(state, **options)
        assert (mixtures, partition) == (MixtureSchedule.of(Mixture(quotas)), Partition(20))
        found += continued.positions
    assert found == [(0, 1), (0, 2), (0, 3), (1, 0)]
    assert f"on {world_size} ranks now, 2 before" in caplog.text
