"""Encoding of shards of images into shards of latents, each written atomically."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.collation import stack_images
from datamodules.latents.cutting import Crop, CutSample, CutSamples, stored_images
from datamodules.latents.plan import LatentPlan
from datamodules.shards import LATENTS_NAME, ShardIndex, write_shard
from datamodules.shards.folder import (
    WHOLE,
    ConversionStoppedError,
    FullDiskError,
    Part,
    Rejected,
    close_folder,
    is_done,
    name_full_disk,
    remove_stale,
)
from datamodules.shards.latents import LatentRecord, pack_latents
from datamodules.streaming.stream import one_thread

Sample = dict[str, Any]
Fetched = TypeVar("Fetched")


class Autoencoder(Protocol):
    """Module whose posterior is stored, such as `mimdit.backbone.codec.VAECodec`."""

    def moments(self, images: torch.Tensor) -> torch.Tensor:
        """Return mean and log-variance ``[B, 2C, h, w]`` of images ``[B, 3, H, W]`` in 0..1."""
        ...

    def to(self, device: torch.device) -> "Autoencoder":
        """Move to a device."""
        ...

    def eval(self) -> "Autoencoder":
        """Switch to evaluation."""
        ...


def encode_shards(plan: LatentPlan, codec: Autoencoder, device: torch.device, *, part: Part = WHOLE, workers: int = 0) -> None:
    """Write the part's missing shards.

    Args:
        plan: The plan; `datamodules.latents.plan.settle` must have written it.
        codec: The autoencoder of the plan's record.
        device: Device of the autoencoder.
        part: Part of the shards.
        workers: Processes that read and cut images; 0 uses this process.

    Raises:
        ConversionStoppedError: The disk is full. Finished shards stay; the same call continues.
        ShardError: A shard of images is missing or damaged.
        ValueError: Latents are not finite, or too large for the float type of the stored latents.
    """
    shards = part.share(plan.shards)
    remove_stale(plan.folder, None if part == WHOLE else [shard.name for shard in shards])
    todo = [shard for shard in shards if not is_done(plan.folder, shard.name)]
    if not todo:
        return
    loader = DataLoader(
        CutSamples(plan.source, todo, plan.record), batch_size=None, collate_fn=_as_it_is, num_workers=workers, worker_init_fn=one_thread
    )
    encoder = _Encoder(codec.to(device).eval(), device, plan.record)
    done, total = len(shards) - len(todo), sum(shard.source.samples for shard in shards)
    with tqdm(total=total, initial=total - sum(shard.source.samples for shard in todo), unit="pair", desc="latents") as bar:
        cut = _counted(loader, bar)
        for shard in todo:
            rejects: list[tuple[str, str]] = []
            samples = encoder.samples(itertools.islice(cut, shard.source.samples), rejects)
            try:
                with name_full_disk(plan.folder):
                    write_shard(plan.folder / shard.name, shard.group, samples, rejects)
            except FullDiskError as error:
                raise ConversionStoppedError(
                    f"{error} Encoding stopped: {done} of {len(shards)} shards are finished and stay. Fix that; then the same call "
                    "continues."
                ) from error
            done += 1


def close_when_done(plan: LatentPlan) -> tuple[ShardIndex, list[Rejected]] | int:
    """Write the index if all shards exist; otherwise return the number of missing ones.

    Parts may call this at the same time: they write the same index.
    """
    missing = sum(not is_done(plan.folder, shard.name) for shard in plan.shards)
    return missing or close_folder(plan.folder, [shard.name for shard in plan.shards], plan.options())


class _Encoder:
    """Autoencoder that encodes crops in batches."""

    def __init__(self, codec: Autoencoder, device: torch.device, record: LatentRecord) -> None:
        self.codec, self.device, self.record = codec, device, record
        self.dtype = getattr(torch, record.dtype)

    def samples(self, cut: Iterable[CutSample], rejects: list[tuple[str, str]]) -> Iterator[Sample]:
        """Yield the samples of one shard, in separate batches, so that its bytes do not depend on others; append rejected samples."""
        waiting: list[Crop] = []
        for sample in cut:
            if sample.problem is not None:
                rejects.append((sample.stem, sample.problem))
            waiting += sample.crops
            while len(waiting) >= self.record.batch_size:
                yield from self._encode(waiting[: self.record.batch_size])
                del waiting[: self.record.batch_size]
        if waiting:
            yield from self._encode(waiting)

    @torch.inference_mode()
    def _encode(self, crops: list[Crop]) -> Iterator[Sample]:
        images = stack_images([crop.lq for crop in crops] + [crop.gt for crop in crops]).to(self.device)
        # cuDNN's fastest algorithm may differ between runs; the same call must give the same bytes.
        deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with deterministic, torch.autocast(self.device.type, torch.bfloat16, enabled=self.record.compute == "bfloat16"):
            moments = self.codec.moments(images)
        stored = moments.to(self.dtype).cpu()
        for number, crop in enumerate(crops):
            lq, gt = stored[number], stored[number + len(crops)]
            if not (lq.isfinite().all() and gt.isfinite().all()):
                raise ValueError(
                    f"The latents of {crop.key} are not all finite in {self.record.dtype}, computed in {self.record.compute}. Encode with "
                    "--dtype=float32 and --compute=float32 to check the autoencoder."
                )
            yield self._sample(crop, lq, gt)

    def _sample(self, crop: Crop, lq: torch.Tensor, gt: torch.Tensor) -> Sample:
        data = pack_latents(lq, gt)
        images, checksums = stored_images(crop) if self.record.images else ({}, {})
        fields = {**crop.fields, **checksums, "latents_sha256": hashlib.sha256(data).hexdigest()}
        return {"__key__": crop.key, **images, LATENTS_NAME: data, "json": fields}


def _counted(loader: DataLoader, bar: tqdm) -> Iterator[CutSample]:
    for sample in loader:
        yield sample
        bar.update()


def _as_it_is(sample: Fetched) -> Fetched:
    """Return a sample unchanged: the DataLoader would turn arrays into tensors."""
    return sample
