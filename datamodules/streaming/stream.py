"""Endless training stream: workers cut batches from the sample order, and each batch carries its consumer's position. Not in the paper.

A consumer is one worker process of one rank (without worker processes: the rank itself); there are ``world_size × max(1, num_workers)`` of
them. A consumer's whole state is its position, (pass, offset in its slice of the pass): see `datamodules.streaming.partition`.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.augmentation import crop_and_flip
from datamodules.collation import collate, collate_latents
from datamodules.decoding import BadSampleError, LatentPair, Pair, decode_latents, decode_pair
from datamodules.rng import named_rng
from datamodules.shards.latents import LatentRecord
from datamodules.streaming.composed import composed_pair
from datamodules.streaming.order import SampleOrder, SampleUse
from datamodules.streaming.partition import Partition, Progress
from mimdit.core.batch import Batch

_log = logging.getLogger(__name__)


class TooManyBadSamplesError(ValueError):
    """More distinct samples, or shards, than allowed could not be used; the message lists them."""


class BadSamples:
    """Distinct bad samples and lost shards found so far, by place, with the reason.

    Args:
        limit: Distinct samples tolerated.
        shard_limit: Distinct shards tolerated that cannot be opened or read.
    """

    def __init__(self, limit: int, shard_limit: int) -> None:
        self.limit, self.shard_limit = limit, shard_limit
        self.reasons: dict[str, str] = {}
        """Reason for each sample."""
        self.lost_shards: dict[str, str] = {}
        """Reason for each shard; all its samples are skipped until it can be read again."""

    def add(self, place: str, reason: str, whole_shard: bool) -> bool:
        """Count a sample, or a whole shard, and return true if it is new.

        Raises:
            TooManyBadSamplesError: The count exceeds the limit now.
        """
        known, limit = (self.lost_shards, self.shard_limit) if whole_shard else (self.reasons, self.limit)
        if place in known:
            return False
        known[place] = reason
        if len(known) > limit:
            what, name = ("shards", "max_lost_shards") if whole_shard else ("samples", "max_bad_samples")
            listing = "\n".join(f"- {reason}" for reason in known.values())
            raise TooManyBadSamplesError(
                f"{len(known)} training {what} could not be used, more than {name}={limit} allows. "
                f"Repair the shards, or raise {name} if the rest is enough:\n{listing}"
            )
        return True


class StreamBatch(Batch):
    """Training batch with its consumer's position after it: [consumer, pass, offset], plain integers that stay off the device.

    ``draw`` names the use of each pair: the repeat of its group, its key and the number of the crop. All random choices for a pair depend
    on the seed and this name only, so ranks, workers and resumption do not change them.
    """

    draw: list[str]
    position: list[int]


class TrainStream(IterableDataset):
    """Endless batches of decoded, cropped pairs, or of cached latents.

    Rank and world size are arguments: a spawned worker has neither a process group nor an environment to read them from, so every rank
    would read the same samples.

    Args:
        order: Order of the samples.
        batch_size: Pairs per batch.
        crop: Side of the random square window in pixels.
        crops: Windows cut from each decoded image; divides ``batch_size``.
        partition: Partition of the order among consumers; None for a new run.
        composed: Groups that are made from another group's clean images.
        flip: If true, rotate by quarter turns and mirror at random.
        latents: Record of the shards' latents, to deliver those; None to deliver images. Latents are neither cropped nor flipped here.
        frozen: If true, all epochs use the same crops and flips (for overfitting on purpose).
        rank: Rank of this process.
        world_size: Number of ranks.
        num_workers: Worker processes of this rank; 0 reads in the training process.
        max_bad_samples: Distinct unusable samples tolerated.
        max_lost_shards: Distinct unreadable shards tolerated.
    """

    def __init__(
        self,
        order: SampleOrder,
        *,
        batch_size: int,
        crop: int,
        crops: int = 1,
        partition: Partition | None = None,
        composed: frozenset[str] = frozenset(),
        flip: bool = True,
        latents: LatentRecord | None = None,
        frozen: bool = False,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        max_bad_samples: int = 100,
        max_lost_shards: int = 10,
    ) -> None:
        super().__init__()
        self.order = order
        self.batch_size = batch_size
        self.crop, self.crops = crop, crops
        self.partition = partition or Partition(len(order))
        self.composed = composed
        self.flip = flip
        self.latents = latents
        self.frozen = frozen
        self.rank = rank
        self.workers = max(1, num_workers)
        self.consumers = world_size * self.workers
        self.limits = max_bad_samples, max_lost_shards
        # Shared memory, so that persistent workers, which keep their copy of this dataset, see where a new iteration starts.
        self._starts = torch.zeros(self.workers, 3, dtype=torch.int64).share_memory_()
        self._begun = torch.zeros(self.workers, dtype=torch.int64).share_memory_()
        self.start_from(Progress(self.workers, self.partition.first))

    @property
    def begun(self) -> int:
        """Last pass that a worker of this rank has begun, prefetched batches included; it depends on timing."""
        return int(self._begun.max())

    def start_from(self, progress: Progress) -> None:
        """Make the next iteration continue from ``progress``.

        The DataLoader always takes the first batch from worker 0, so worker 0 becomes the consumer of the next batch.
        """
        for worker in range(self.workers):
            consumer = (progress.next_consumer + worker) % self.workers
            self._starts[worker] = torch.tensor([consumer, *progress.positions[consumer]])
            self._begun[consumer] = progress.positions[consumer][0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield `StreamBatch`es with a further entry ``bad``: the samples skipped since the last one, as arguments of `BadSamples.add`."""
        info = get_worker_info()
        local, *start = self._starts[info.id if info else 0].tolist()
        consumer = self.rank * self.workers + local
        bad = BadSamples(*self.limits)
        collated = collate if self.latents is None else collate_latents
        pairs: list[Any] = []  # of `Pair`, or of `LatentPair` with latents
        names: list[str] = []
        skipped: list[tuple[str, str, bool]] = []
        unusable = 0
        for pass_number, offset, use in self._uses(consumer, *start):
            try:
                crops = self._crops(use)
                pairs += crops
                names += [f"{use.repeat}/{use.sample.key}/{number}" for number in range(len(crops))]
                unusable = 0
            except BadSampleError as error:
                unusable += 1
                skipped.append((use.sample.place, str(error), use.sample.problem is not None))
                bad.add(*skipped[-1])
                if unusable > len(self.order):
                    raise TooManyBadSamplesError(f"No sample of {self.order.index.folder} can be used; the last one: {error}") from error
            if len(pairs) == self.batch_size:
                yield {**collated(pairs), "draw": names, "position": [consumer, pass_number, offset], "bad": skipped}
                pairs, names, skipped = [], [], []

    def _uses(self, consumer: int, pass_number: int, offset: int) -> Iterator[tuple[int, int, SampleUse]]:
        """Yield a consumer's samples from a position on, each with the position after it."""
        for current in itertools.count(pass_number):
            self._begun[consumer % self.workers] = current
            for part in self.partition.ranges(current, consumer, self.consumers, offset):
                for use in self.order.read(*part):
                    offset += 1
                    yield current, offset, use
            offset = 0

    def _crops(self, use: SampleUse) -> list[Pair] | list[LatentPair]:
        """Decode a sample and cut its crops; the random choices for each depend on the key, the repeat and the number of the crop."""
        if self.latents is not None:
            return [decode_latents(use.sample, self.latents.shape)]
        repeat = 0 if self.frozen else use.repeat
        rngs = [named_rng(self.order.seed, repeat, "sample", use.sample.key, number) for number in range(self.crops)]
        if use.group in self.composed and not use.sample.problem:
            return [composed_pair(use.sample, use.group, self.crop, rng, flip=self.flip) for rng in rngs]
        pair = decode_pair(use.sample)
        return [crop_and_flip(pair, self.crop, rng, flip=self.flip) for rng in rngs]


class StreamLoader(DataLoader):
    """DataLoader of a `TrainStream` whose iterations continue after the last counted batch; counts bad samples.

    Args:
        stream: The batches.
        progress: Counted batches; read at the start of an iteration, never changed here.
        options: Further arguments of ``torch.utils.data.DataLoader``.
    """

    def __init__(self, stream: TrainStream, progress: Progress, **options: Any) -> None:
        super().__init__(stream, batch_size=None, worker_init_fn=one_thread, **options)
        self.progress = progress
        self.bad = BadSamples(*stream.limits)

    def __iter__(self) -> Iterator[StreamBatch]:
        """Yield batches without end.

        Raises:
            TooManyBadSamplesError: The workers of this rank found too many distinct unusable samples or shards.
        """
        assert isinstance(self.dataset, TrainStream)
        self.progress.forget_pending()
        self.dataset.start_from(self.progress)
        for batch in super().__iter__():
            for place, reason, whole_shard in batch.pop("bad"):
                if not self.bad.add(place, reason, whole_shard):
                    continue
                if whole_shard:
                    _log.warning("Lost training shard %d of at most %d: %s", len(self.bad.lost_shards), self.bad.shard_limit, reason)
                else:
                    _log.warning("Skipped training sample %d of at most %d: %s", len(self.bad.reasons), self.bad.limit, reason)
            yield batch


def one_thread(worker: int) -> None:
    """Limit OpenCV to one thread in a worker process: its thread pool does not survive a fork, and workers already use all cores."""
    cv2.setNumThreads(0)
