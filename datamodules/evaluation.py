"""Validation and test pairs: a fixed list, whole images, every pair on exactly one rank."""

from collections.abc import Iterator
from itertools import zip_longest

from torch.utils.data import Dataset, DistributedSampler

from datamodules.decoding import Pair, decode_pair
from datamodules.shards import SampleSpan, ShardEntry, ShardIndex, ShardStore, parse_sample, shard_place, sidecar_of


class EvaluationPairs(Dataset):
    """The pairs of a folder of shards, read by their spans; any pair that cannot be used is an error.

    The groups take turns (first pair of each, second pair of each, …), so that a limited number of batches still shows every group.

    Args:
        index: The shards.
        store: Opens them; None for local ones.

    Raises:
        ShardError: A sidecar is missing or does not match the index.
        BadSampleError: On access: the pair cannot be decoded or its sizes differ; names shard and key.
    """

    def __init__(self, index: ShardIndex, store: ShardStore | None = None) -> None:
        self.index, self.store = index, store or ShardStore()
        lines = [
            [(shard, span) for shard in shards for span in sidecar_of(index, shard, self.store).spans[: shard.samples]]
            for shards in index.groups.values()
        ]
        self._spans: list[tuple[ShardEntry, SampleSpan]] = [entry for turn in zip_longest(*lines) for entry in turn if entry is not None]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Pair:
        shard, span = self._spans[number]
        place = shard_place(self.index, shard)
        with self.store.open(place, shard.bytes) as file:
            file.seek(span.offset)
            data = file.read(span.size)
        return decode_pair(parse_sample(data, place))


class ShareSampler(DistributedSampler):
    """Gives rank ``r`` of ``n`` the entries r, r + n, r + 2n, …: none twice, none padded, so ranks may differ by one.

    A validation step must therefore not wait for other ranks (FSDP's forward does: give it a list that the ranks divide evenly). Being
    a DistributedSampler it is left in place by Lightning.
    """

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's entries in ascending order."""
        return iter(range(self.rank, len(self.dataset), self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))
