"""Validation and test pairs: a fixed list, whole images, every pair on exactly one rank."""

from collections.abc import Iterable, Iterator, Sized
from itertools import zip_longest
from pathlib import Path
from typing import TypeGuard, TypeVar

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from datamodules.decoding import BadSampleError, Pair, check_sizes, decode_image, decode_pair
from datamodules.degradations import atoms_of_group
from datamodules.shards import (
    INDEX_NAME,
    SampleSpan,
    ShardEntry,
    ShardError,
    ShardIndex,
    ShardStore,
    is_remote,
    open_index,
    parse_sample,
    shard_place,
    sidecar_of,
)
from datamodules.shards.latents import LatentRecord
from datamodules.sources.listing import Listing, SourcePair, list_foundir
from datamodules.sources.members import MemberReader
from mimdit.core.batch import ATOMS

_Entry = TypeVar("_Entry")


def open_pairs(places: str | list[str], store: ShardStore) -> "ShardPairs | ListedPairs":
    """Return the pairs at a place: shards as in `open_index`, or one folder (or list, or archives) as in `list_foundir`.

    Raises:
        ShardError: Shards are damaged, or hold latents without images.
        ValueError: There are neither shards nor pairs.
    """
    if is_listed(places):
        return ListedPairs(list_foundir(Path(places)))
    index = open_index(places, store)
    if (record := LatentRecord.of(index)) is not None and not record.images:
        raise ShardError(
            f"{index.folder} holds latents without images, but evaluation needs images. Give the shards that they were made of, or encode "
            "them anew with --keep_images=true."
        )
    return ShardPairs(index, store)


def is_listed(places: str | list[str]) -> TypeGuard[str]:
    """Return true if ``places`` is a list or a folder without shards: pairs as they were released."""
    if not isinstance(places, str) or is_remote(places):
        return False
    place = Path(places)
    return place.suffix.lower() == ".txt" or (place.is_dir() and not (place / INDEX_NAME).is_file() and any(place.iterdir()))


class ShardPairs(Dataset):
    """The pairs of a folder of shards, read by their spans; an unusable pair raises an error.

    The groups take turns (first pair of each, second pair of each, …), so that a limited number of batches still covers every group.

    Args:
        index: The shards.
        store: Store that opens them; None for local shards.

    Raises:
        ShardError: A sidecar is missing or does not match the index.
        BadSampleError: On access, the pair cannot be decoded or its sizes differ; the message names shard and key.
    """

    def __init__(self, index: ShardIndex, store: ShardStore | None = None) -> None:
        self.index, self.store = index, store or ShardStore()
        self.groups = {group: sum(shard.samples for shard in shards) for group, shards in index.groups.items()}
        self._spans: list[tuple[ShardEntry, SampleSpan]] = _in_turns(
            [(shard, span) for shard in shards for span in sidecar_of(index, shard, self.store).spans[: shard.samples]]
            for shards in index.groups.values()
        )

    @property
    def names(self) -> list[tuple[str, str]]:
        """Group and key of every pair, in order."""
        return [(shard.group, span.key) for shard, span in self._spans]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, number: int) -> Pair:
        shard, span = self._spans[number]
        place = shard_place(self.index, shard)
        with self.store.open(place, shard.bytes) as file:
            file.seek(span.offset)
            data = file.read(span.size)
        return decode_pair(parse_sample(data, place))


class ListedPairs(Dataset):
    """The pairs of a listed source, folders or archives, as they were released; groups take turns as in `ShardPairs`.

    Args:
        listing: The listed source.

    Raises:
        BadSampleError: The listing has rejects, such as an image without its partner: a test set must be whole. On access, the pair
            cannot be decoded or its sizes differ; the message names the files.
    """

    def __init__(self, listing: Listing) -> None:
        if listing.rejects:
            first = "; ".join(f"{reject.group}/{reject.name}: {reject.reason}" for reject in listing.rejects[:5])
            raise BadSampleError(f"{listing.root} is to be evaluated, but {len(listing.rejects)} of its files make no pair: {first}.")
        groups: dict[str, list[SourcePair]] = {}
        for pair in listing.pairs:
            groups.setdefault(pair.group, []).append(pair)
        self.root, self.files = listing.root, listing.files
        self.groups = {group: len(pairs) for group, pairs in groups.items()}
        self._pairs: list[SourcePair] = _in_turns(groups.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Pair:
        pair = self._pairs[number]
        with MemberReader(self.root, self.files) as reader:
            lq, gt = (decode_image(reader.read(member), f"{member.name} of {self.root}") for member in (pair.lq, pair.gt))
        check_sizes(lq, gt, f"{pair.lq.name} and {pair.gt.name} of {self.root}")
        present = np.array([atom in atoms_of_group(pair.group) for atom in ATOMS], np.float32)
        return Pair(f"{pair.group}/{pair.stem}", pair.group, lq, gt, present)


def _in_turns(groups: Iterable[list[_Entry]]) -> list[_Entry]:
    return [entry for turn in zip_longest(*groups) for entry in turn if entry is not None]


class ShareSampler(DistributedSampler):
    """Sampler that gives rank ``r`` of ``n`` the entries r, r + n, r + 2n, …: none twice, none padded, so ranks may differ by one.

    A validation step must therefore not wait for other ranks. (FSDP's forward waits: use a multiple of the number of ranks.)
    Lightning keeps this sampler because it is a DistributedSampler.
    """

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's entries in ascending order."""
        return iter(self._share)

    def __len__(self) -> int:
        return len(self._share)

    @property
    def _share(self) -> range:
        assert isinstance(self.dataset, Sized), "a fixed list has a length"
        return range(self.rank, len(self.dataset), self.num_replicas)
