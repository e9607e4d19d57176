"""Order of the training stream: a function of (seed, epoch, position), so that any position is reached without replay. Not in the paper.

Each group has an endless order: repeat ``r`` shows its shards permuted by (seed, group, r), and the samples inside each shard permuted by
(seed, group, r, shard). Epoch ``e`` continues each group's order by the group's quota (`datamodules.streaming.mixture`), and interleaves
the groups by a permutation of group labels drawn from (seed, e). The resulting order of an epoch is cut by sample count among the consumers
(`datamodules.streaming.partition`).
"""

import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.rng import named_rng
from datamodules.shards import RawSample, ShardEntry, ShardError, ShardIndex, ShardStore, parse_sample, shard_place, sidecar_of
from datamodules.streaming.mixture import Mixture
from datamodules.streaming.schedule import SharedMixtures

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleUse:
    """One use of a sample: the stored sample, the group it is used for, and how many times all samples of the group were used before."""

    sample: RawSample
    group: str
    repeat: int


class SampleOrder:
    """Endless order of the samples in shards.

    Args:
        index: The shards.
        mixture: Samples of each group per epoch, or a schedule of them; None for all samples of all groups.
        seed: Seed of the order.
        store: Store that opens the shards; None for local ones.
        sources: For a group without shards, the group whose samples it uses; see `datamodules.streaming.composed`.
        slow: Seconds of reading one sample after which its shard is reported as slow.

    Raises:
        ValueError: There are no samples.
    """

    def __init__(
        self,
        index: ShardIndex,
        mixture: Mixture | SharedMixtures | None = None,
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
        """Return the number of samples in one epoch."""
        return self.mixture.samples

    def read(self, epoch: int, start: int, stop: int) -> Iterator[SampleUse]:
        """Yield the samples ``start`` to ``stop`` − 1 of an epoch, opening only the shards they are in, one per group at a time.

        A shard that cannot be opened or read yields samples without content but with a `RawSample.problem`.
        """
        mixture = self.mixture.at(epoch)
        groups = sorted(mixture.quotas)
        labels = self._labels(mixture, epoch)
        before = np.bincount(labels[:start], minlength=len(groups))
        wanted = np.bincount(labels[start:stop], minlength=len(groups))
        orders = [
            self._read_group(group, mixture.start(group, epoch) + int(passed), int(count))
            for group, passed, count in zip(groups, before, wanted)
        ]
        try:
            for label in labels[start:stop]:
                yield next(orders[label])
        finally:
            for order in orders:
                order.close()

    def _labels(self, mixture: Mixture, epoch: int) -> np.ndarray:
        """Return the group of each position of an epoch, int16 ``[len(self)]``."""
        groups = sorted(mixture.quotas)
        labels = np.repeat(np.arange(len(groups), dtype=np.int16), [mixture.quotas[group] for group in groups])
        return named_rng(self.seed, epoch, "groups").permutation(labels)

    def _read_group(self, group: str, position: int, wanted: int) -> Generator[SampleUse, None, None]:
        """Yield ``wanted`` samples of a group's order from ``position`` on, over as many repeats as needed."""
        shards = self.shards[group]
        size = sum(shard.samples for shard in shards)
        while wanted:
            repeat, skipped = divmod(position, size)
            for shard in (shards[i] for i in named_rng(self.seed, repeat, "shards", group).permutation(len(shards))):
                taken = max(0, min(wanted, shard.samples - skipped))
                if taken:
                    order = named_rng(self.seed, repeat, "samples", group, shard.name).permutation(shard.samples)
                    for sample in self._read_shard(shard, order[skipped : skipped + taken].tolist()):
                        yield SampleUse(sample, group, repeat)
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
