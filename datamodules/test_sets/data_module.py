"""LightningDataModule of evaluation: any number of test sets at once, every image on one rank."""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from datamodules.collation import stack_images
from datamodules.streaming.stream import one_thread
from datamodules.test_sets.base import Entry, TestSet
from mimdit.core.batch import ATOMS, Batch

SHOWN = 10
"""Maximum number of unpaired images that an error lists."""


class TestSetDataModule(L.LightningDataModule):
    """The images of test sets, one by one, as `mimdit.core.batch.Batch` with ``test_set``; without ``gt`` if there is no truth.

    Every rank has the same number of images, so that sharded models, whose ranks step together, can be tested: if the images do not
    divide evenly, the first are repeated. So each test set, group and key must be scored only once.

    Args:
        test_sets: Test sets by their names in the results.
        benchmarks: Former name of ``test_sets``; takes precedence if both are given.
        num_workers: Worker processes per rank that read and decode; 0 reads in the testing process.
        prefetch: Images that each worker process prepares ahead.
        limit: Maximum number of images per group, spread evenly, for a quick look; 0 is all.

    Raises:
        ValueError: There is no test set, or a number is out of range.
    """

    __test__ = False  # pytest collects classes of this name

    def __init__(
        self,
        test_sets: dict[str, TestSet] | None = None,
        *,
        benchmarks: dict[str, TestSet] | None = None,
        num_workers: int = 1,
        prefetch: int = 2,
        limit: int = 0,
    ) -> None:
        super().__init__()
        test_sets = test_sets if benchmarks is None else benchmarks
        if not test_sets:
            raise ValueError("data.test_sets is empty; give at least one, such as GoPro: {class_path: PairFolders, init_args: {root: …}}")
        for name, value, least in (("num_workers", num_workers, 0), ("prefetch", prefetch, 1), ("limit", limit, 0)):
            if value < least:
                raise ValueError(f"data.{name} is {value}; it must be at least {least}.")
        self.test_sets, self.num_workers, self.prefetch, self.limit = test_sets, num_workers, prefetch, limit
        self._images: _Images | None = None

    def setup(self, stage: str) -> None:
        """List all test sets before the first image is restored.

        Raises:
            ValueError: A test set does not have its layout, or has images without a partner and does not allow that; the message
                names them.
        """
        listed: list[tuple[str, int, Entry]] = []
        complaints = []
        for name, test_set in self.test_sets.items():
            contents = test_set.contents
            if contents.unpaired and not test_set.allow_unpaired:
                more = f" and {len(contents.unpaired) - SHOWN} more" if len(contents.unpaired) > SHOWN else ""
                complaints.append(f"{name}: {len(contents.unpaired)} unpaired ({'; '.join(contents.unpaired[:SHOWN])}{more})")
            entries = spread_evenly(contents.entries, self.limit) if self.limit else contents.entries
            listed += [(name, test_set.crop, entry) for entry in entries]
        if complaints:
            raise ValueError(f"{'. '.join(complaints)}. Complete the set, or evaluate only the pairs: allow_unpaired: true")
        self._images = _Images(listed)

    @property
    def protocols(self) -> dict[str, dict[str, Any]]:
        """Settings that each test set's numbers depend on, its further metrics, and the images that were left out as unpaired."""
        return {
            name: test_set.protocol() | {"metrics": test_set.metrics, "unpaired": test_set.contents.unpaired, "limit": self.limit}
            for name, test_set in self.test_sets.items()
        }

    def test_dataloader(self) -> DataLoader:
        """Return this rank's share of all images."""
        return self._loader()

    def predict_dataloader(self) -> DataLoader:
        """Return this rank's share of all images."""
        return self._loader()

    def _loader(self) -> DataLoader:
        assert self._images is not None, "setup lists them"
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = DistributedSampler(self._images, num_replicas=ranks, rank=rank, shuffle=False) if ranks > 1 else None
        return DataLoader(
            self._images,
            batch_size=1,
            sampler=sampler,
            collate_fn=_one,
            worker_init_fn=one_thread,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch if self.num_workers else None,
        )


class BenchmarkDataModule(TestSetDataModule):
    """Former name of `TestSetDataModule`."""

    def __init__(
        self,
        benchmarks: dict[str, TestSet] | None = None,
        *,
        test_sets: dict[str, TestSet] | None = None,
        num_workers: int = 1,
        prefetch: int = 2,
        limit: int = 0,
    ) -> None:
        super().__init__(test_sets, benchmarks=benchmarks, num_workers=num_workers, prefetch=prefetch, limit=limit)


def spread_evenly(entries: list[Entry], limit: int) -> list[Entry]:
    """Return at most ``limit`` entries of each group, evenly spread over it, in their order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    kept = []
    for members in groups.values():
        number = min(limit, len(members))
        kept += [members[place * len(members) // number] for place in range(number)]
    return kept


class _Images(Dataset):
    """All test sets' images in a row, with the name and the cropping of their test set."""

    def __init__(self, listed: list[tuple[str, int, Entry]]) -> None:
        self.listed = listed

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, number: int) -> dict[str, Any]:
        name, crop, entry = self.listed[number]
        lq, gt = (image if image is None else crop_centrally(image, crop) for image in entry.load())
        hot = np.array([atom in entry.degradations for atom in ATOMS], np.float32)
        return {
            "test_set": name,
            "group": entry.group,
            "key": entry.key,
            "degradations": list(entry.degradations),
            "degradation": hot,
            "lq": lq,
            "gt": gt,
        }


def crop_centrally(image: np.ndarray, multiple: int) -> np.ndarray:
    """Return the central part of ``[H, W, 3]`` with sides that are multiples of ``multiple`` pixels, as in PromptIR's ``crop_img``.

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
    batch = Batch(
        test_set=[sample["test_set"]],
        group=[sample["group"]],
        key=[sample["key"]],
        degradations=[sample["degradations"]],
        degradation=torch.from_numpy(sample["degradation"])[None],
        lq=stack_images([sample["lq"]]),
    )
    if sample["gt"] is not None:
        batch["gt"] = stack_images([sample["gt"]])
    return batch
