"""The order of the training stream: pure arithmetic on (seed, epoch, position), so that any position can be reached without replay.

Pass ``p`` over a group is a line: its shards permuted by (seed, group, p), the samples inside each by (seed, group, p, shard). Epoch ``e``
continues each group's line by the group's quota (`datamodules.streaming.mixture`); the groups' lines are interleaved by a permutation of
group labels drawn from (seed, e). This one line is cut by sample count among the consumers (`datamodules.streaming.partition`). (ours)
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.rng import named_rng
from datamodules.shards import RawSample, ShardEntry, ShardError, ShardIndex, ShardStore, parse_sample, shard_place, sidecar_of
from datamodules.streaming.mixture import Mixture

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """One use of a sample: the stored sample, the group it was drawn for, and which pass over that group this is."""

    sample: RawSample
    group: str
    turn: int


class Line:
    """The endless line of samples over shards.

    Args:
        index: The shards.
        mixture: How much of each group an epoch takes; None for all of everything.
        seed: Seed of the order.
        store: Opens the shards; None for local ones.
        sources: Where the samples of a group that has no shards come from: another group's name. See `datamodules.streaming.composed`.
        slow: Seconds of reading one sample after which its shard is reported as slow.

    Raises:
        ValueError: There are no samples.
    """

    def __init__(
        self,
        index: ShardIndex,
        mixture: Mixture | None = None,
        *,
        seed: int,
        store: ShardStore | None = None,
        sources: dict[str, str] | None = None,
        slow: float = 30.0,
    ) -> None:
        self.index = index
        self.shards = index.groups | {group: index.groups[source] for group, source in (sources or {}).items()}
        self.mixture = mixture or Mixture({group: sum(shard.samples for shard in shards) for group, shards in self.shards.items()})
        if not self.mixture.samples:
            raise ValueError(f"The shard folder {index.folder} holds no samples. Write it anew or name another folder.")
        self.seed = seed
        self.store = store or ShardStore()
        self.slow = slow

    def __len__(self) -> int:
        """Number of samples of one epoch."""
        return self.mixture.samples

    def read(self, epoch: int, start: int, stop: int) -> Iterator[Draw]:
        """Yield the samples ``start`` to ``stop`` − 1 of an epoch's line, opening only the shards they lie in, one a group at a time.

        Of a shard that cannot be opened or read, samples without content come that tell the `RawSample.problem`.
        """
        groups = sorted(self.mixture.quotas)
        labels = self._labels(groups, epoch)
        passed = np.bincount(labels[:start], minlength=len(groups))
        wanted = np.bincount(labels[start:stop], minlength=len(groups))
        lines = [
            self._read_group(group, self.mixture.start(group, epoch) + int(before), int(count))
            for group, before, count in zip(groups, passed, wanted)
        ]
        try:
            for label in labels[start:stop]:
                yield next(lines[label])
        finally:
            for line in lines:
                line.close()

    def _labels(self, groups: list[str], epoch: int) -> np.ndarray:
        """Return which group each position of an epoch's line belongs to, int16 ``[len(self)]``."""
        labels = np.repeat(np.arange(len(groups), dtype=np.int16), [self.mixture.quotas[group] for group in groups])
        return named_rng(self.seed, epoch, "groups").permutation(labels)

    def _read_group(self, group: str, position: int, wanted: int) -> Iterator[Draw]:
        """Yield ``wanted`` samples of a group's line from ``position`` on, through as many passes as it takes."""
        shards = self.shards[group]
        size = sum(shard.samples for shard in shards)
        while wanted:
            turn, skipped = divmod(position, size)
            for shard in (shards[i] for i in named_rng(self.seed, turn, "shards", group).permutation(len(shards))):
                taken = max(0, min(wanted, shard.samples - skipped))
                if taken:
                    order = named_rng(self.seed, turn, "samples", group, shard.name).permutation(shard.samples)
                    for sample in self._read_shard(shard, order[skipped : skipped + taken].tolist()):
                        yield Draw(sample, group, turn)
                skipped = max(0, skipped - shard.samples)
                position, wanted = position + taken, wanted - taken
                if not wanted:
                    return

    def _read_shard(self, shard: ShardEntry, numbers: list[int]) -> Iterator[RawSample]:
        """Yield the numbered samples of a shard, each by one positioned read."""
        place = shard_place(self.index, shard)
        try:
            spans = sidecar_of(self.index, shard, self.store).spans
            file = self.store.open(place, shard.bytes)
        except ShardError as error:
            for number in numbers:
                yield RawSample.missing(f"{shard.group}/?{number}", place, str(error))
            return
        with file:
            for number in numbers:
                started = time.monotonic()
                try:
                    file.seek(spans[number].offset)
                    sample = parse_sample(file.read(spans[number].size), place)
                except (OSError, ShardError) as error:
                    sample = RawSample.missing(spans[number].key, place, f"The shard {place} cannot be read ({error}).")
                if (seconds := time.monotonic() - started) > self.slow:
                    _log.warning("Reading %s took %.0f s.", sample.place, seconds)
                yield sample
