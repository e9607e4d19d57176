"""Pairs in shards, such as those that ``mimdit shards quickstart`` and ``mimdit shards foundir`` write."""

from functools import partial

from datamodules.pairs import ShardPairs
from datamodules.shards import ShardIndex
from datamodules.test_sets.base import Benchmark, Contents, Entry, Images
from datamodules.test_sets.degradations import degradations_of


class Shards(Benchmark):
    """A local folder of shards with images; its groups are theirs.

    Args:
        root: The folder, with its ``index.json``.
        **options: As in `Benchmark`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """List the samples of every shard."""
        pairs = ShardPairs(ShardIndex.load(self.root))
        return Contents(
            [
                Entry(group, key.removeprefix(f"{group}/"), degradations_of(group), partial(_load, pairs, number))
                for number, (group, key) in enumerate(pairs.names)
            ]
        )


def _load(pairs: ShardPairs, number: int) -> Images:
    pair = pairs[number]
    return pair.lq, pair.gt
