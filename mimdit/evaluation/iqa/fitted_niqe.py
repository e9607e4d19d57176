"""NIQE's model of pristine images, fitted to one's own photographs where the official one is not at hand.

The scores of two models are not comparable, so the metric has a name of its own: `niqe_fitted` compares runs with each other, never with
papers. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mimdit.core.files import replace_when_whole

BLOCK = 96
"""Side of a block in pixels, NIQE's own."""

SHARPNESS = 0.75
"""Blocks with at least this fraction of the sharpness of their photograph's sharpest block are used (Mittal et al. 2013, §II-B)."""

LEAST_BLOCKS = 108
"""Minimum number of sharp blocks, three for each of the 36 features; fewer hardly determine the covariance."""


@dataclass(frozen=True)
class PristineModel:
    """Multivariate Gaussian of the features of sharp, undistorted blocks.

    Attributes:
        mean: Mean of the features, ``[36]``.
        covariance: Covariance of the features, ``[36, 36]``.
        blocks: Number of blocks it was fitted to.
    """

    mean: np.ndarray
    covariance: np.ndarray
    blocks: int

    def save(self, path: Path) -> None:
        """Write the model as the MATLAB file that pyiqa's NIQE reads."""
        from scipy.io import savemat

        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(path) as temporary, open(temporary, "wb") as file:
            savemat(file, {"mu_prisparam": self.mean[None], "cov_prisparam": self.covariance, "blocks": self.blocks})


def fit_pristine_model(images: Iterable[torch.Tensor]) -> PristineModel:
    """Fit NIQE's model to pristine images ``[1, 3, H, W]`` in 0..1, with at least one block a side.

    Features are computed by pyiqa's code. Source: Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer",
    IEEE Signal Processing Letters 20(3), 2013.

    Raises:
        ValueError: The images have too few sharp blocks.
    """
    features = [_sharp_features(image) for image in images]
    blocks = torch.cat(features) if features else torch.zeros(0, 36, dtype=torch.float64)
    blocks = blocks[blocks.isfinite().all(dim=1)].numpy()
    if len(blocks) < LEAST_BLOCKS:
        raise ValueError(
            f"the {len(features)} photographs have {len(blocks)} sharp blocks of {BLOCK} pixels, and NIQE's model needs at least "
            f"{LEAST_BLOCKS}; add photographs, or larger ones"
        )
    return PristineModel(blocks.mean(axis=0), np.cov(blocks, rowvar=False), len(blocks))


def _sharp_features(image: torch.Tensor) -> torch.Tensor:
    """Return the features ``[N, 36]``, fp64, of an image's sharp blocks."""
    from pyiqa.archs.func_util import diff_round, normalize_img_with_gauss
    from pyiqa.archs.niqe_arch import compute_feature
    from pyiqa.matlab_utils import imresize
    from pyiqa.utils.color_util import to_y_channel

    luma = diff_round(to_y_channel(image, 255, "yiq")).double()
    height, width = (extent // BLOCK * BLOCK for extent in luma.shape[2:])
    luma = luma[..., :height, :width]
    sharpness = _sharpness(luma)
    sharp = sharpness >= SHARPNESS * sharpness.max()
    features = []
    for scale in (1, 2):
        normalized = normalize_img_with_gauss(luma, padding="replicate")
        features.append(compute_feature(_blocks(normalized, BLOCK // scale)[sharp]))
        luma = imresize(luma / 255.0, scale=0.5, antialiasing=True) * 255.0
    return torch.cat(features, dim=-1)


def _blocks(image: torch.Tensor, size: int) -> torch.Tensor:
    """Cut ``image [1, 1, H, W]`` into blocks ``[N, 1, size, size]``, row by row."""
    return image[0, 0].unfold(0, size, size).unfold(1, size, size).reshape(-1, 1, size, size)


def _sharpness(luma: torch.Tensor) -> torch.Tensor:
    """Return the mean local deviation of each block of ``luma [1, 1, H, W]``, ``[N]``, in the order of `_blocks`."""
    from pyiqa.matlab_utils import fspecial, imfilter

    kernel = fspecial(7, 7.0 / 6, 1).to(luma)
    mean = imfilter(luma, kernel, padding="replicate")
    deviation = (imfilter(luma.square(), kernel, padding="replicate") - mean.square()).clamp_min(0).sqrt()
    return torch.nn.functional.avg_pool2d(deviation, BLOCK).flatten()
