"""The LightningDataModule of evaluation: any number of benchmarks at once, every image on one rank."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.collation import stack_images
from datamodules.streaming.stream import one_thread
from datamodules.test_sets.base import Benchmark, Entry
from mimdit.core.batch import ATOMS, Batch

SHOWN = 10
"""Unpaired images that an error names."""


class BenchmarkDataModule(L.LightningDataModule):
    """The images of benchmarks, one by one, as `mimdit.core.batch.Batch` with ``benchmark``; without ``gt`` where there is no truth.

    Over several ranks each has the same number of images: where they do not divide, the first come again, so that sharded models, whose
    ranks step together, can be tested; who scores must count by benchmark, group and key.

    Args:
        benchmarks: Benchmarks by the names they have in the results.
        num_workers: Worker processes a rank that read and decode; 0 reads in the testing process.
        prefetch: Images each worker process prepares ahead.
        limit: Images of each group to take at most, spread evenly, for a quick look; 0 is all.
    """

    def __init__(self, benchmarks: dict[str, Benchmark], *, num_workers: int = 1, prefetch: int = 2, limit: int = 0) -> None:
        super().__init__()
        if not benchmarks:
            raise ValueError("data.benchmarks is empty; give at least one, such as GoPro: {class_path: PairFolders, init_args: {root: …}}")
        for name, value, least in (("num_workers", num_workers, 0), ("prefetch", prefetch, 1), ("limit", limit, 0)):
            if value < least:
                raise ValueError(f"data.{name} is {value}; it must be at least {least}.")
        self.benchmarks, self.num_workers, self.prefetch, self.limit = benchmarks, num_workers, prefetch, limit
        self._images: _Images | None = None

    def setup(self, stage: str) -> None:
        """List all benchmarks before the first image is restored.

        Raises:
            ValueError: A benchmark is not laid out as it should be, or has images without a partner and does not allow that; the message
                names them.
        """
        listed: list[tuple[str, int, Entry]] = []
        complaints = []
        for name, benchmark in self.benchmarks.items():
            contents = benchmark.contents
            if contents.unpaired and not benchmark.allow_unpaired:
                more = f" and {len(contents.unpaired) - SHOWN} more" if len(contents.unpaired) > SHOWN else ""
                complaints.append(f"{name}: {len(contents.unpaired)} unpaired ({'; '.join(contents.unpaired[:SHOWN])}{more})")
            entries = spread(contents.entries, self.limit) if self.limit else contents.entries
            listed += [(name, benchmark.crop, entry) for entry in entries]
        if complaints:
            raise ValueError(f"{'. '.join(complaints)}. Complete the set, or evaluate the pairs alone: allow_unpaired: true")
        self._images = _Images(listed)

    @property
    def protocols(self) -> dict[str, dict[str, Any]]:
        """What each benchmark's numbers depend on, the metrics it wants beside those of all, and what was left out as unpaired."""
        return {
            name: benchmark.protocol() | {"metrics": benchmark.metrics, "unpaired": benchmark.contents.unpaired, "limit": self.limit}
            for name, benchmark in self.benchmarks.items()
        }

    def test_dataloader(self) -> DataLoader:
        """Return this rank's share of all images."""
        return self._loader()

    def predict_dataloader(self) -> DataLoader:
        """Return this rank's share of all images."""
        return self._loader()

    def _loader(self) -> DataLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = DistributedSampler(self._images, num_replicas=ranks, rank=rank, shuffle=False) if ranks > 1 else None
        workers = {"prefetch_factor": self.prefetch} if self.num_workers else {}
        options = {"collate_fn": _one, "worker_init_fn": one_thread, "num_workers": self.num_workers}
        return DataLoader(self._images, batch_size=1, sampler=sampler, **options, **workers)


def spread(entries: list[Entry], limit: int) -> list[Entry]:
    """At most ``limit`` entries of each group, evenly over it, in their order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    kept = []
    for members in groups.values():
        number = min(limit, len(members))
        kept += [members[place * len(members) // number] for place in range(number)]
    return kept


class _Images(Dataset):
    """All benchmarks' images in a row, with their benchmark's name and cropping."""

    def __init__(self, listed: list[tuple[str, int, Entry]]) -> None:
        self.listed = listed

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, number: int) -> dict[str, Any]:
        name, crop, entry = self.listed[number]
        lq, gt = (image if image is None else crop_centrally(image, crop) for image in entry.load())
        hot = np.array([atom in entry.degradations for atom in ATOMS], np.float32)
        return {
            "benchmark": name,
            "group": entry.group,
            "key": entry.key,
            "degradations": list(entry.degradations),
            "degradation": hot,
            "lq": lq,
            "gt": gt,
        }


def crop_centrally(image: np.ndarray, multiple: int) -> np.ndarray:
    """The central part of ``[H, W, 3]`` whose sides are multiples of ``multiple``, as PromptIR's ``crop_img`` cuts it.

    Raises:
        ValueError: The image is smaller than ``multiple``.
    """
    height, width = (size - size % multiple for size in image.shape[:2])
    if not height or not width:
        raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} pixels cannot be cut to multiples of crop={multiple}")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _one(samples: list[dict[str, Any]]) -> Batch:
    (sample,) = samples
    batch = {name: [sample[name]] for name in ("benchmark", "group", "key", "degradations")}
    batch |= {name: stack_images([sample[name]]) for name in ("lq", "gt") if sample[name] is not None}
    return batch | {"degradation": torch.from_numpy(sample["degradation"])[None]}
