"""The order of the training stream: pure arithmetic on (seed, epoch, position), so that any position can be reached without replay.

Pass ``p`` over a group is a line: its shards permuted by (seed, group, p), the samples of each in stored order. Epoch ``e`` is pass ``e``
of every group, the groups' lines interleaved by a permutation of group labels drawn from (seed, e). This one line of all samples is cut
by sample count among ``n`` consumers, a contiguous slice each; the slices rotate with ``e``. So each epoch shows each sample exactly
once, whatever the number of ranks and workers. (ours)
"""

from collections.abc import Iterator

import numpy as np

from datamodules.seeding import named_rng
from datamodules.shards import RawSample, ShardEntry, ShardIndex, read_shard


class Line:
    """The endless line of samples over a folder of shards."""

    def __init__(self, index: ShardIndex, *, seed: int) -> None:
        if not index.samples:
            raise ValueError(f"The shard folder {index.folder} holds no samples. Write it anew or name another folder.")
        self.index = index
        self.seed = seed
        self._groups = list(index.groups.items())

    def __len__(self) -> int:
        """Number of samples of one epoch."""
        return self.index.samples

    def bounds(self, epoch: int, consumer: int, consumers: int) -> tuple[int, int]:
        """Return the slice ``[start, stop)`` of epoch ``epoch``'s line that belongs to a consumer."""
        number = (consumer + epoch) % consumers
        return number * len(self) // consumers, (number + 1) * len(self) // consumers

    def read(self, epoch: int, start: int, stop: int) -> Iterator[RawSample]:
        """Yield the samples ``start`` to ``stop`` − 1 of an epoch's line, opening only the shards they lie in."""
        labels = self._labels(epoch)
        passed = np.bincount(labels[:start], minlength=len(self._groups))
        wanted = np.bincount(labels[start:stop], minlength=len(self._groups))
        passes = [self._read_pass(group, epoch, int(passed[group]), int(wanted[group])) for group in range(len(self._groups))]
        try:
            for label in labels[start:stop]:
                yield next(passes[label])
        finally:
            for reader in passes:
                reader.close()

    def _labels(self, epoch: int) -> np.ndarray:
        """Return which group each position of an epoch's line belongs to, int16 ``[len(self)]``."""
        sizes = [sum(shard.samples for shard in shards) for _, shards in self._groups]
        labels = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
        return named_rng(self.seed, epoch, "groups").permutation(labels)

    def _read_pass(self, group: int, number: int, skipped: int, wanted: int) -> Iterator[RawSample]:
        """Yield ``wanted`` samples of pass ``number`` over a group after its first ``skipped``."""
        name, shards = self._groups[group]
        for shard in self._shuffled(name, shards, number):
            if not wanted:
                return
            if skipped >= shard.samples:
                skipped -= shard.samples
                continue
            taken = min(wanted, shard.samples - skipped)
            yield from read_shard(self.index.path(shard), samples=shard.samples, first=skipped, limit=taken)
            skipped, wanted = 0, wanted - taken

    def _shuffled(self, group: str, shards: list[ShardEntry], number: int) -> list[ShardEntry]:
        """Return a group's shards in the order of one pass."""
        return [shards[i] for i in named_rng(self.seed, number, "shards", group).permutation(len(shards))]
