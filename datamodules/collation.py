"""Collation of decoded pairs into a `mimdit.core.batch.Batch`."""

import numpy as np
import torch

from datamodules.decoding import LatentPair, Pair
from mimdit.core.batch import Batch


def collate(pairs: list[Pair]) -> Batch:
    """Stack pairs of one size into a batch of float32 ``[B, 3, H, W]`` in 0..1.

    Raises:
        ValueError: The pairs differ in size.
    """
    shapes = {pair.key: pair.lq.shape[:2] for pair in pairs}
    if len(set(shapes.values())) > 1:
        listing = ", ".join(f"{key} is {width}x{height}" for key, (height, width) in shapes.items())
        raise ValueError(f"Images of different sizes cannot be one batch: {listing}. Set eval_batch_size to 1.")
    return Batch(
        lq=stack_images([pair.lq for pair in pairs]),
        gt=stack_images([pair.gt for pair in pairs]),
        degradation=torch.from_numpy(np.stack([pair.degradation for pair in pairs])),
        group=[pair.group for pair in pairs],
        key=[pair.key for pair in pairs],
    )


def collate_latents(pairs: list[LatentPair]) -> Batch:
    """Stack cached latents ``[2C, h, w]`` of one shape into a batch without images, in their stored float type."""
    return Batch(
        lq_latent=torch.stack([pair.lq for pair in pairs]),
        gt_latent=torch.stack([pair.gt for pair in pairs]),
        degradation=torch.from_numpy(np.stack([pair.degradation for pair in pairs])),
        group=[pair.group for pair in pairs],
        key=[pair.key for pair in pairs],
    )


def stack_images(images: list[np.ndarray]) -> torch.Tensor:
    """Stack uint8 images ``[H, W, 3]`` of one size into a float32 tensor ``[B, 3, H, W]`` in 0..1."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked.float().div_(255)
