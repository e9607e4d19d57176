"""Crops for latents: read, decoded and cut in worker processes, in stored order."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch.utils.data import Dataset

from datamodules.augmentation import random_window
from datamodules.decoding import BadSampleError, decode_pair
from datamodules.degradations import atoms_of_group
from datamodules.latents.plan import LatentShard
from datamodules.rng import named_rng
from datamodules.shards import RawSample, ShardEntry, ShardIndex, ShardStore, Sidecar, parse_sample, shard_place, sidecar_of
from datamodules.shards.latents import LatentRecord
from datamodules.streaming.composed import composed_pair


@dataclass(frozen=True)
class Crop:
    """One crop of a pair, uint8 RGB ``[crop, crop, 3]``, flipped as recorded in its json."""

    key: str
    lq: np.ndarray
    gt: np.ndarray
    fields: dict[str, Any]


@dataclass(frozen=True)
class CutSample:
    """Crops of one sample, or the reason why there are none."""

    stem: str
    crops: tuple[Crop, ...]
    problem: str | None = None


class CutSamples(Dataset):
    """Samples of the shards to encode, shard by shard.

    Args:
        source: The shards of images.
        shards: The shards to write, and their sources.
        record: Record of how the latents are made.
    """

    def __init__(self, source: ShardIndex, shards: Sequence[LatentShard], record: LatentRecord) -> None:
        self.source, self.shards, self.record = source, tuple(shards), record
        self.store = ShardStore()
        self._sidecar: Sidecar | None = None
        self._starts = np.cumsum([0, *(shard.source.samples for shard in self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> CutSample:
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        shard = self.shards[place]
        sample = self._read(shard.source, number - int(self._starts[place]))
        stem = sample.key.partition("/")[2]
        try:
            return CutSample(stem, tuple(self._crops(shard, sample, stem)))
        except BadSampleError as error:
            return CutSample(stem, (), str(error))

    def _read(self, entry: ShardEntry, number: int) -> RawSample:
        place = shard_place(self.source, entry)
        if self._sidecar is None or self._sidecar.entry.name != entry.name:  # shards are read in sequence, so only the last one is kept
            self._sidecar = sidecar_of(self.source, entry, self.store)
        span = self._sidecar.spans[number]
        with self.store.open(place, entry.bytes) as file:
            file.seek(span.offset)
            return parse_sample(file.read(span.size), place)

    def _crops(self, shard: LatentShard, sample: RawSample, stem: str) -> list[Crop]:
        record, crops = self.record, []
        pair = decode_pair(sample) if shard.group == shard.source.group else None  # otherwise the group is composed
        fields = {name: value for name, value in json.loads(sample.json or "{}").items() if not name.startswith("latents_")}
        for number in range(record.crops):
            rng = named_rng(record.seed, "latents", shard.group, sample.key, number)
            if pair is None:
                cut = composed_pair(sample, shard.group, record.crop, rng, flip=record.flip)
                lq, gt = cut.lq, cut.gt
                # The json describes another degraded image. The crop was degraded after cutting, so its place is not stored.
                kept = {name: value for name, value in fields.items() if not name.startswith("lq_")}
                changed = {"group": shard.group, "atoms": list(atoms_of_group(shard.group)), "composed_from": sample.key}
            else:
                window = random_window(pair, record.crop, rng, flip=record.flip)
                lq, gt = window.cut(pair.lq), window.cut(pair.gt)
                kept, changed = fields, {"crop": [window.top, window.left], "turns": window.turns, "mirror": window.mirror}
            changed |= {"width": record.crop, "height": record.crop}
            # These describe the full images; they are recomputed for stored crops.
            kept = {name: value for name, value in kept.items() if not name.endswith(("_sha256", "_orientation"))}
            key = f"{shard.group}/{stem}_c{number:02d}"
            crops.append(Crop(key, np.ascontiguousarray(lq), np.ascontiguousarray(gt), {**kept, **changed}))
        return crops


def stored_images(crop: Crop) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the two images of a crop as PNG, by the name after the key, and their checksums for the json."""
    encoded = {}
    for side in ("lq", "gt"):
        done, data = cv2.imencode(".png", getattr(crop, side)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        encoded[side] = data.tobytes()
    parts = {f"{side}.png": data for side, data in encoded.items()}
    return parts, {f"{side}_sha256": hashlib.sha256(data).hexdigest() for side, data in encoded.items()}
