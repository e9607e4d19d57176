"""FID and KID: distances between the restored images of a test set and their truths, as sets of Inception features."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from mimdit.evaluation.iqa.scorer import quietly

SIDE = 299
"""Side in pixels of Inception's input."""

SUBSET, SUBSETS = 100, 100
"""Maximum number of images in a subset that KID compares, and the number of subsets."""


class InceptionFeatures:
    """Inception features ``[2048]`` of single images, with the weights and the resizing of clean-fid, as in pyiqa's ``fid``."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        from pyiqa.archs.inception import InceptionV3

        self.device = torch.device(device)
        with quietly():
            self.model = InceptionV3().eval().to(self.device)

    @torch.no_grad()
    def __call__(self, image: torch.Tensor) -> np.ndarray:
        """Return the features, fp32 ``[2048]``, of an image ``[1, 3, H, W]`` in 0..1, rounded to 8 bits first."""
        planes = (image[0].detach().float().cpu().clamp(0, 1) * 255).round().numpy()
        resized = [np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255) for plane in planes]
        batch = (torch.from_numpy(np.stack(resized))[None].to(self.device) - 128) / 128
        with torch.autocast(self.device.type, enabled=False):
            return self.model(batch, False, False)[0].flatten().cpu().numpy()


def set_distances(names: Iterable[str], images: np.ndarray, truths: np.ndarray) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return FID and KID between two sets of features ``[N, F]``, computed by torchmetrics, and a reason for each that is None.

    FID (arXiv 1706.08500) is in double precision. KID (arXiv 1801.01401) is the mean over 100 subsets of at most 100 images, drawn with a
    fixed seed. Both mean little over few images: FID's covariance has full rank from 2,049 images on.
    """
    scores: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name in names:
        if len(images) < 2:
            scores[name], notes[name] = None, "needs at least two images"
            continue
        given = _Given(images.shape[1])
        # The features of all ranks have been gathered on this one.
        metric = FrechetInceptionDistance(given, sync_on_compute=False) if name == "fid" else _kid(given, min(SUBSET, len(images)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            metric.update(torch.from_numpy(truths), real=True)
            metric.update(torch.from_numpy(images), real=False)
            value = metric.compute()
        scores[name] = float(value[0] if isinstance(value, tuple) else value)  # KID also has a deviation
    return scores, notes


class _Given(torch.nn.Identity):
    """Identity in the place where torchmetrics would compute features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _kid(features: torch.nn.Module, subset: int) -> KernelInceptionDistance:
    with warnings.catch_warnings(action="ignore"):  # about the memory that features take
        return KernelInceptionDistance(features, subsets=SUBSETS, subset_size=subset, sync_on_compute=False)
