"""Inspection of a config's data: check that it exists, and decode a sample of each group."""

import hashlib
import json
from dataclasses import dataclass

from datamodules.decoding import decode_latents, decode_pair
from datamodules.pairs import ListedPairs, is_listed, open_pairs
from datamodules.shards import ShardIndex, ShardStore, open_index, parse_sample, shard_place, sidecar_of
from datamodules.shards.latents import LatentRecord


@dataclass(frozen=True)
class Look:
    """Result of an inspection: pairs of each group, their storage, and a checksum that is equal for equal data."""

    groups: dict[str, int]
    stored: str
    checksum: str

    def __str__(self) -> str:
        return f"{sum(self.groups.values()):,} pairs of {len(self.groups)} groups ({self.stored}), one of each decoded"


def look_into(places: str | list[str], store: ShardStore, number: int = 0) -> Look:
    """Open ``places`` as training or evaluation would, and decode one sample of each group.

    Args:
        places: Places as in ``data.train`` or ``data.test``.
        store: Store that opens the shards; remote ones need its cache.
        number: Number of the shard in a group, and of the sample in it, modulo their counts, so that processes can inspect different ones.

    Raises:
        ValueError: A place cannot be opened, or a sample cannot be decoded; the message names the file and the remedy.
    """
    if is_listed(places):
        pairs = open_pairs(places, store)
        assert isinstance(pairs, ListedPairs)
        return _look_at_files(pairs)
    return _look_at_shards(open_index(places, store), store, number)


def _look_at_files(pairs: ListedPairs) -> Look:
    for place in range(len(pairs.groups)):  # the groups alternate in the list
        pairs[place]
    return Look(dict(pairs.groups), "files", _checksum(sorted(pairs.groups.items())))


def _look_at_shards(index: ShardIndex, store: ShardStore, number: int) -> Look:
    record = LatentRecord.of(index)
    for shards in index.groups.values():
        shard = shards[number % len(shards)]
        spans = sidecar_of(index, shard, store).spans
        span, place = spans[number % len(spans)], shard_place(index, shard)
        with store.open(place, shard.bytes) as file:
            file.seek(span.offset)
            sample = parse_sample(file.read(span.size), place)
        if record is None or record.images:
            decode_pair(sample)
        if record is not None:
            decode_latents(sample, record.shape)
    groups = {group: sum(shard.samples for shard in shards) for group, shards in index.groups.items()}
    stored = f"{len(index.shards)} shards" + ("" if record is None else ", latents")
    return Look(groups, stored, _checksum(sorted(index.hashes.items())))


def _checksum(what: list) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
