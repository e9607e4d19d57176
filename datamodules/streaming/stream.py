"""The endless training stream: batches cut from the line by the workers, each batch carrying its reader's position.

A consumer is one worker process of one rank (without worker processes: the rank itself); there are ``world_size × max(1, num_workers)`` of
them. Its position is (lap, offset in its slice of that lap), and that is all there is to its state: see `datamodules.streaming.partition`.
(ours)
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
from datamodules.latents.record import LatentRecord
from datamodules.rng import named_rng
from datamodules.streaming.bad_samples import BadSamples, TooManyBadSamplesError
from datamodules.streaming.composed import composed_pair
from datamodules.streaming.order import Draw, Line
from datamodules.streaming.partition import Laps
from datamodules.streaming.progress import Progress
from mimdit.core.batch import Batch

_log = logging.getLogger(__name__)


class StreamBatch(Batch):
    """A training batch, and where its consumer stands after it: [consumer, lap, offset], plain integers that stay off the device.

    ``draw`` names each pair's use: the pass over its group, its key and the number of the crop. What is random about it is drawn from the
    seed and this name, so neither ranks nor workers nor resumption change it.
    """

    draw: list[str]
    position: list[int]


class TrainStream(IterableDataset):
    """Whole batches of decoded, cropped pairs, or of cached latents, without end.

    Rank and world size are given, never looked up: in a spawned worker there is neither a process group nor an environment to ask, and
    every rank would read the same.

    Args:
        line: The order of the samples.
        batch_size: Pairs a batch.
        crop: Side of the random square window in pixels.
        crops: Windows cut from each decoded image; divides ``batch_size``.
        laps: How the line is cut; None for a run that starts.
        composed: Groups that are made from another's clean images.
        flip: Whether to turn and mirror at random.
        latents: How the shards' latents were made, to deliver those; None to deliver images. Latents are neither cropped nor flipped here.
        frozen: Whether to draw crops and flips once for all epochs (for overfitting on purpose).
        rank: This process's number.
        world_size: How many processes train.
        num_workers: Worker processes of this rank; 0 reads in the training process.
        max_bad_samples: Distinct unusable samples tolerated.
        max_lost_shards: Distinct shards that cannot be read tolerated.
    """

    def __init__(
        self,
        line: Line,
        *,
        batch_size: int,
        crop: int,
        crops: int = 1,
        laps: Laps | None = None,
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
        self.line = line
        self.batch_size = batch_size
        self.crop, self.crops = crop, crops
        self.laps = laps or Laps(len(line))
        self.composed = composed
        self.flip = flip
        self.latents = latents
        self.frozen = frozen
        self.rank = rank
        self.workers = max(1, num_workers)
        self.consumers = world_size * self.workers
        self.limits = max_bad_samples, max_lost_shards
        # Shared memory: persistent workers keep their copy of this dataset, and must learn where a new iteration starts.
        self._starts = torch.zeros(self.workers, 3, dtype=torch.int64).share_memory_()
        self.start_from(Progress(self.workers, self.laps.first))

    def start_from(self, progress: Progress) -> None:
        """Let the next iteration continue where ``progress`` stands.

        The DataLoader asks worker 0 first, always; so worker 0 takes the consumer whose turn it is.
        """
        for worker in range(self.workers):
            consumer = (progress.turn + worker) % self.workers
            self._starts[worker] = torch.tensor([consumer, *progress.positions[consumer]])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield `StreamBatch`es, each with a further entry ``bad``: what was skipped since the last, as arguments of `BadSamples.add`."""
        info = get_worker_info()
        local, *start = self._starts[info.id if info else 0].tolist()
        consumer = self.rank * self.workers + local
        bad = BadSamples(*self.limits)
        collated = collate if self.latents is None else collate_latents
        pairs: list[Pair | LatentPair] = []
        draws: list[str] = []
        skipped: list[tuple[str, str, bool]] = []
        unusable = 0
        for lap, offset, draw in self._draws(consumer, *start):
            try:
                crops = self._crops(draw)
                pairs += crops
                draws += [f"{draw.turn}/{draw.sample.key}/{number}" for number in range(len(crops))]
                unusable = 0
            except BadSampleError as error:
                unusable += 1
                skipped.append((draw.sample.place, str(error), draw.sample.problem is not None))
                bad.add(*skipped[-1])
                if unusable > len(self.line):
                    raise TooManyBadSamplesError(f"No sample of {self.line.index.folder} can be used; the last one: {error}") from error
            if len(pairs) == self.batch_size:
                yield {**collated(pairs), "draw": draws, "position": [consumer, lap, offset], "bad": skipped}
                pairs, draws, skipped = [], [], []

    def _draws(self, consumer: int, lap: int, offset: int) -> Iterator[tuple[int, int, Draw]]:
        """Yield a consumer's samples from a position on, each with the position after it."""
        for current in itertools.count(lap):
            for part in self.laps.ranges(current, consumer, self.consumers, offset):
                for draw in self.line.read(*part):
                    offset += 1
                    yield current, offset, draw
            offset = 0

    def _crops(self, draw: Draw) -> list[Pair] | list[LatentPair]:
        """Decode a sample and cut its crops, each with the draws that belong to its key, its pass and its number."""
        if self.latents is not None:
            return [decode_latents(draw.sample, self.latents.shape)]
        turn = 0 if self.frozen else draw.turn
        rngs = [named_rng(self.line.seed, turn, "sample", draw.sample.key, number) for number in range(self.crops)]
        if draw.group in self.composed and not draw.sample.problem:
            return [composed_pair(draw.sample, draw.group, self.crop, rng, flip=self.flip) for rng in rngs]
        pair = decode_pair(draw.sample)
        return [crop_and_flip(pair, self.crop, rng, flip=self.flip) for rng in rngs]


class StreamLoader(DataLoader):
    """A DataLoader over a `TrainStream` whose every iteration continues where the counted batches end, and which counts bad samples.

    Args:
        stream: The batches.
        progress: What was consumed; read at the start of an iteration, never written here.
        options: Further arguments of ``torch.utils.data.DataLoader``.
    """

    def __init__(self, stream: TrainStream, progress: Progress, **options: Any) -> None:
        super().__init__(stream, batch_size=None, worker_init_fn=one_thread, **options)
        self.progress = progress
        self.bad = BadSamples(*stream.limits)

    def __iter__(self) -> Iterator[StreamBatch]:
        """Yield batches without end.

        Raises:
            TooManyBadSamplesError: This rank's workers met too many distinct samples or shards that cannot be used.
        """
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
    """Keep OpenCV to one thread in a worker process: its thread pool does not survive a fork, and cores are counted by workers."""
    cv2.setNumThreads(0)
