"""LightningDataModule for image restoration: an endless, resumable training stream and fixed evaluation lists."""

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from datamodules.collation import collate
from datamodules.pairs import ListedPairs, ShardPairs, ShareSampler, open_pairs
from datamodules.shards import ShardIndex, ShardStore, open_index
from datamodules.shards.latents import LatentRecord
from datamodules.streaming.composed import check_composed
from datamodules.streaming.consumption import CountConsumed, check_length
from datamodules.streaming.mixture import Mixture, make_quotas, quotas_of_shares
from datamodules.streaming.order import SampleOrder
from datamodules.streaming.partition import Partition, Progress
from datamodules.streaming.schedule import SLOTS, MixtureSchedule, SharedMixtures
from datamodules.streaming.state import continue_stream, oldest_epoch, stream_state
from datamodules.streaming.stream import BadSamples, StreamBatch, StreamLoader, TrainStream, one_thread
from mimdit.core.collectives import gather
from mimdit.core.connected_trainer import connected

_FOLDERS = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("test",)}


class RestorationDataModule(L.LightningDataModule):
    """Pairs of degraded and clean images from folders of shards, as `mimdit.core.batch.Batch`; pretraining reads only ``gt``.

    Training is endless: set ``trainer.max_steps``. Sample order depends only on ``seed``, group quotas and number of consumers (ranks ×
    worker processes); crops do not depend on the number of consumers. A checkpoint continues with the very next batch. With another number
    of consumers the order changes, but no sample repeats or is lost; other groups or weights apply from the next epoch on.

    Args:
        train: Training shards, or null: a folder, a tar or several (08Haze-{000000..000009}.tar), a glob of folders or of tars in a
            folder, a folder's URL, or a list of these. If they hold latents (``mimdit shards latents``), training uses those; the model's
            codec must be the one that made them.
        validation: Validation shards, likewise, or a folder of image pairs.
        test: Test shards or pairs, likewise; also used by predict.
        groups: Training groups; null is all, or the keys of weights.
        weights: Samples of each group per epoch, relative to one another; null is the number of samples of each group.
        temperature: Weigh groups by their size to the power 1 / temperature: 1 gives the sizes, large values make all groups alike.
        epoch_samples: Samples of an epoch of the stream, over all ranks; null is all samples of the training groups. A group's order never
            starts over, so shorter epochs leave nothing out; shares that change while training do so between two epochs.
        composed: Training groups to compose from the clean images of others, e.g. 18Lowlight_Blur_Noise: 02Blur_Noise.
        batch_size: Training pairs per batch and rank.
        eval_batch_size: Pairs per batch in validation, test and predict; above 1 all images must have one size.
        crop: Side of the random square training crop in pixels; for latents it must equal the crop they were made with.
        crops: Training crops cut from each decoded image; divides batch_size. More crops save decoding but make batches less varied.
        flip: If true, training pairs are rotated by quarter turns and mirrored at random (8 ways). Latents stay as they were encoded.
        latents: If true, train on the latents of shards that hold them; otherwise on their images.
        num_workers: Worker processes per rank for training; 0 reads in the training process.
        eval_num_workers: Worker processes per rank for validation, test and predict.
        prefetch: Batches prepared ahead by each worker process.
        pin_memory: If true, use page-locked memory where CUDA is available.
        multiprocessing_context: Start method of worker processes: fork, spawn, forkserver; null is the platform's default.
        seed: Seed of order, crops and flips.
        max_bad_samples: Distinct training samples that a rank may skip because they cannot be decoded, before training stops.
        max_lost_shards: Distinct training shards that a rank may skip because they are missing or unreadable, before training stops; 0
            stops at the first, and names it. A shard that becomes readable is used again.
        overfit: Train on this many samples only, evenly over the training groups, each with one fixed crop; fewer than groups leave out the
            last groups. 0 is all samples. (Lightning's overfit_batches does not work on an endless stream.)
        cache: Folder for local copies of shards, needed for remote ones; null reads local shards directly.
        cache_gib: Maximum size of the copies in GiB.
        shard_timeout: Seconds for one attempt to copy a shard; after three it counts as missing. callbacks.Watchdog must wait longer.
        allow_pipes: If true, a place may be a shell command, ``pipe:aws s3 cp s3://bucket/foundir/{} -``. It runs with your rights, so it
            is refused by default.

    Raises:
        ValueError: A number is out of range, or ``crops`` does not divide ``batch_size``.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        groups: list[str] | None = None,
        weights: dict[str, float] | None = None,
        temperature: float | None = None,
        epoch_samples: int | None = None,
        composed: dict[str, str] | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        crop: int = 96,
        crops: int = 1,
        flip: bool = True,
        latents: bool = True,
        num_workers: int = 2,
        eval_num_workers: int = 1,
        prefetch: int = 2,
        pin_memory: bool = True,
        multiprocessing_context: str | None = None,
        seed: int = 0,
        max_bad_samples: int = 100,
        max_lost_shards: int = 10,
        overfit: int = 0,
        cache: str | None = None,
        cache_gib: float = 100.0,
        shard_timeout: float = 240.0,
        allow_pipes: bool = False,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("crop", crop, 1),
            ("crops", crops, 1),
            ("num_workers", num_workers, 0),
            ("eval_num_workers", eval_num_workers, 0),
            ("prefetch", prefetch, 1),
            ("max_bad_samples", max_bad_samples, 0),
            ("max_lost_shards", max_lost_shards, 0),
            ("overfit", overfit, 0),
            ("epoch_samples", 1 if epoch_samples is None else epoch_samples, 1),
        ):
            if value < least:
                raise ValueError(f"data.{name} is {value}; it must be at least {least}.")
        if batch_size % crops:
            raise ValueError(f"data.crops is {crops}, which does not divide data.batch_size of {batch_size}: a batch holds whole images.")
        self.groups, self.weights, self.temperature, self.composed = groups, weights, temperature, composed or {}
        self.epoch_samples = epoch_samples
        self.store = ShardStore(cache=cache, cache_gib=cache_gib, timeout=shard_timeout, allow_pipes=allow_pipes)
        self.folders = {"train": train, "validation": validation, "test": test}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.crop, self.crops, self.flip, self.latents = crop, crops, flip, latents
        self.num_workers, self.eval_num_workers = num_workers, eval_num_workers
        self.prefetch, self.pin_memory = prefetch, pin_memory
        self.multiprocessing_context = multiprocessing_context
        self.seed = seed
        self.max_bad_samples, self.max_lost_shards = max_bad_samples, max_lost_shards
        self.overfit = overfit
        self._train: ShardIndex | None = None
        self._held: tuple[str, ...] = ()
        self._evaluated: dict[str, ShardPairs | ListedPairs] = {}
        self._mixtures: MixtureSchedule | None = None
        self._shared: SharedMixtures | None = None
        self._stream: TrainStream | None = None
        self._partition: Partition | None = None
        self._progress: Progress | None = None
        self._loaded: dict[str, Any] = {}
        self._step: int | None = None
        self.bad = BadSamples(max_bad_samples, max_lost_shards)
        """Samples and shards that this rank's training stream could not use."""

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def setup(self, stage: str) -> None:
        """Check a stage's folders and, for fit, the trainer's limits; add the callback that counts consumed batches.

        Raises:
            ShardError: A folder or shard is missing, or a shard was cut short.
            ValueError: No training folder is set, the trainer's limits do not fit an endless stream, or the arguments do not fit the
                latents.
        """
        for name in _FOLDERS[stage]:
            if self.folders[name] is not None:
                self._index() if name == "train" else self._pairs(name)
        if stage == "fit" and self.trainer:
            self._index()
            check_length(self.trainer)
            self._latents()
            if self.trainer.global_step == 0:
                self._progress = None
            callbacks = connected(self.trainer).callbacks
            if not any(isinstance(callback, CountConsumed) for callback in callbacks):
                # First in the list: a ModelCheckpoint must save the position after the step.
                callbacks.insert(0, CountConsumed())

    def train_dataloader(self) -> StreamLoader:
        """Return the endless stream, from its start or from the last completed step.

        Raises:
            ValueError: The loaded state has other data or another seed, or groups, weights, composed groups or crops do not fit the shards.
        """
        index, workers = self._index(), max(1, self.num_workers)
        quotas = self._quotas()
        if self._loaded:
            here = {"seed": self.seed, "hashes": index.hashes, "workers": workers, "world_size": self._world_size, "rank": self._rank}
            self._mixtures, self._partition, self._progress = continue_stream(self._loaded, quotas=quotas, **here)
            self._loaded = {}
        elif self._progress is None:
            self._mixtures = MixtureSchedule.of(Mixture(quotas))
            self._partition, self._progress = Partition(self._mixtures.samples), Progress(workers)
        assert self._mixtures is not None, "set together with the progress"
        sources = {group: source for group, source in self.composed.items() if source in index.groups}  # data.overfit leaves out some
        self._shared = SharedMixtures([*index.groups, *sources], self._mixtures)
        self._stream = stream = TrainStream(
            SampleOrder(index, self._shared, seed=self.seed, store=self.store, sources=sources),
            batch_size=self.batch_size,
            crop=self.crop,
            crops=self.crops,
            partition=self._partition,
            composed=frozenset(self.composed),
            flip=self.flip,
            latents=self._latents(),
            frozen=self.overfit > 0,
            rank=self._rank,
            world_size=self._world_size,
            num_workers=self.num_workers,
            max_bad_samples=self.max_bad_samples,
            max_lost_shards=self.max_lost_shards,
        )
        loader = StreamLoader(stream, self._progress, **self._loading(self.num_workers))
        self.bad = loader.bad
        self._step = self.trainer.global_step if self.trainer else None
        return loader

    @property
    def latent_codec(self) -> tuple[dict[str, str | None], str] | None:
        """Identity of the codec of cached training latents, and their folder; None if training uses images."""
        record = None if self.folders["train"] is None else self._latents()
        return None if record is None else (record.codec, str(self._index().folder))

    def _quotas(self) -> dict[str, int]:
        """Return the samples of each group per epoch, composed ones included."""
        read = {group: sum(shard.samples for shard in shards) for group, shards in self._index().groups.items()}
        sizes = dict.fromkeys(self._held, 0) | read
        check_composed(self.composed, sorted(sizes))
        sizes |= {group: sizes[source] for group, source in self.composed.items()}
        weights = self.weights
        if weights is not None and self.overfit:  # some groups may have no sample left
            weights = {group: weight if sizes.get(group, 1) else 0.0 for group, weight in weights.items()}
        return make_quotas(sizes, groups=self.groups, weights=weights, temperature=self.temperature, samples=self.epoch_samples)

    def _sources(self) -> set[str]:
        """Return the groups of shards that training reads: the chosen ones, and those that chosen ones are composed from."""
        chosen = self.groups if self.groups is not None else self.weights if self.weights is not None else [*self._held, *self.composed]
        return {self.composed.get(group, group) for group in chosen if self.weights is None or self.weights.get(group, 0) > 0}

    def val_dataloader(self) -> DataLoader | list:
        """Return this rank's share of the validation pairs, or none if no folder is set."""
        return self._evaluation("validation") if self.folders["validation"] is not None else []

    def test_dataloader(self) -> DataLoader:
        """Return this rank's share of the test pairs."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader:
        """Return this rank's share of the test pairs."""
        return self._evaluation("test")

    def mark_consumed(self, batch: StreamBatch) -> None:
        """Record that a training batch went through its step; it counts once the optimizer has stepped.

        Under a Trainer this is called automatically for every batch. In your own loop, call it after each step.
        """
        assert self._progress is not None
        self._progress.deliver(batch["position"])
        step = self.trainer.global_step if self.trainer else None
        if step is None or step != self._step:
            self._progress.commit()
            self._step = step

    @property
    def shares(self) -> dict[str, float]:
        """Share of each training group in an epoch, by the newest mixture; they sum to 1.

        Raises:
            ValueError: There is no training stream yet.
        """
        if self._mixtures is None:
            raise ValueError("The training stream has no shares before train_dataloader() has made it.")
        return {group: quota / self._mixtures.samples for group, quota in self._mixtures.newest.quotas.items()}

    @property
    def epoch_length(self) -> int:
        """Samples of an epoch of the training stream, over all ranks; 0 before there is one."""
        return 0 if self._mixtures is None else self._mixtures.samples

    def set_shares(self, shares: dict[str, float]) -> int:
        """Give the training groups other shares, from the first epoch of the stream that no rank or worker can have begun.

        That epoch follows from the batches that went through their steps and the most that can be prepared ahead, not from how far the
        workers happen to be, so a resumed run makes the same change at the same sample. Every sample of the epochs before it is still used.
        A collective: all ranks must call it between the same steps, with the same shares. Checkpoints keep the change.

        Args:
            shares: Share of each training group, relative to one another, rounded to whole samples of an epoch, at least one.

        Returns:
            The first epoch of the stream with these shares.

        Raises:
            ValueError: The groups are others than the training groups, a share is not above 0, or epochs are too short for the changes that
                are pending.
            RuntimeError: A worker has skipped so many samples that it has begun that epoch.
        """
        if sorted(shares) != sorted(before := self.shares) or not all(0 < share < float("inf") for share in shares.values()):
            raise ValueError(f"Shares {shares} must name the training groups {', '.join(sorted(before))}, each with a number above 0.")
        assert self._mixtures is not None and self._partition is not None and self._progress is not None, "there are shares"
        assert self._shared is not None and self._stream is not None
        quotas = quotas_of_shares(shares, self._mixtures.samples)
        everyone = gather((self._progress.positions, self._stream.begun))
        positions = [position for of_rank, _ in everyone for position in of_rank]
        # Beyond the last step a worker has at most: the trainer's micro-batches and the one it fetches early, and its own prefetched ones.
        batches = self.prefetch + 1 + (self.trainer.accumulate_grad_batches if self.trainer else 1)
        ahead = batches * self.batch_size // self.crops + self.max_bad_samples
        consumers = len(positions)
        first_epoch = 1 + max(self._partition.reached(position, place, consumers, ahead) for place, position in enumerate(positions))
        if (begun := max(newest for _, newest in everyone)) >= first_epoch:
            raise RuntimeError(
                f"The shares should change with epoch {first_epoch} of the stream, but a worker is in epoch {begun} already: a lost shard "
                "made it skip more than data.max_bad_samples samples. Repair the shards and resume from the last checkpoint."
            )
        if quotas == self._mixtures.newest.quotas:
            return self._mixtures.newest.first_epoch
        mixtures = self._mixtures.followed_by(quotas, first_epoch=first_epoch).since(oldest_epoch(self._partition, positions))
        if len(mixtures.mixtures) > SLOTS:
            raise ValueError(f"More than {SLOTS} changes of shares are pending. Change them less often, or raise data.epoch_samples.")
        self._mixtures = mixtures
        self._shared.add(mixtures.newest)
        return first_epoch

    def state_dict(self) -> dict[str, Any]:
        """Return every rank's position in the stream; a collective, which Lightning calls on all ranks when saving."""
        if self._progress is None:
            return self._loaded
        assert self._mixtures is not None and self._partition is not None, "set together with the progress"
        return stream_state(self.seed, self._index().hashes, self._mixtures, self._partition, self._progress)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store a state from which the next `train_dataloader` continues; each rank uses its own part."""
        self._loaded = state_dict

    def _index(self) -> ShardIndex:
        """Load the training index once."""
        if self._train is None:
            index = open_index(self._place("train"), self.store)
            self._held = tuple(index.groups)
            kept = index.first(self.overfit, self._sources()) if self.overfit else index
            self._train = kept if kept.shards else index  # none if all chosen names are unknown, which is reported later
        return self._train

    def _latents(self) -> LatentRecord | None:
        """Return the record of the training latents; None if training uses images.

        Raises:
            ValueError: The arguments do not fit the latents, or need images that are not stored.
        """
        record, folder = LatentRecord.of(self._index()), self._index().folder
        if record is None:
            return None
        if not self.latents:
            if not record.images:
                remedy = "Name the shards they were made from."
                raise ValueError(f"data.latents is false, but {folder} holds latents without images. {remedy}")
            return None
        if self.crop != record.crop or self.crops != 1:
            raise ValueError(
                f"data.crop is {self.crop} and data.crops {self.crops}, but {folder} holds latents of crops of {record.crop} pixels, each "
                f"a sample of its own. Set data.crop: {record.crop} and data.crops: 1, or encode other crops."
            )
        if self.composed:
            raise ValueError(
                f"{', '.join(self.composed)} need images to be composed, but {folder} holds latents. Set data.composed: {{}} (FoundIR: "
                "data.compose: false), and compose them at encoding: mimdit shards latents --compose."
            )
        return record

    def _pairs(self, name: str) -> ShardPairs | ListedPairs:
        """List the pairs of validation or test once."""
        if name not in self._evaluated:
            self._evaluated[name] = open_pairs(self._place(name), self.store)
        return self._evaluated[name]

    def _place(self, name: str) -> str | list[str]:
        places = self.folders[name]
        if places is None:
            raise ValueError(f"data.{name} is not set. Give a folder of shards, such as one that `mimdit shards quickstart` wrote.")
        return places

    def _evaluation(self, name: str) -> DataLoader:
        """Return a loader over a fixed list of pairs, split over the ranks."""
        pairs = self._pairs(name)
        sampler = ShareSampler(pairs, num_replicas=self._world_size, rank=self._rank, shuffle=False) if self._world_size > 1 else None
        return DataLoader(
            pairs,
            batch_size=self.eval_batch_size,
            sampler=sampler,
            collate_fn=collate,
            worker_init_fn=one_thread,
            **self._loading(self.eval_num_workers),
        )

    def _loading(self, workers: int) -> dict[str, Any]:
        """Return the DataLoader arguments that depend on the machine."""
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "prefetch_factor": self.prefetch if workers else None,
            "multiprocessing_context": self.multiprocessing_context if workers else None,
            "pin_memory": self.pin_memory and torch.cuda.is_available(),
        }
