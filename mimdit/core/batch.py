"""Batch of image pairs: the contract between the datamodules and the model."""

from typing import NotRequired, TypedDict

import torch

ATOMS = ("blur", "noise", "jpeg", "haze", "rain", "raindrop", "lowlight")
"""The elementary degradations, in the order of the multi-hot vector ``Batch["degradation"]`` (A = 7)."""


class Batch(TypedDict):
    """Aligned pairs of degraded images and their ground truth, as images or, only in training, as cached latents.

    ``lq`` and ``gt`` are float32 ``[B, 3, H, W]`` in 0..1 (sRGB). ``degradation`` is a float32 multi-hot ``[B, A]`` over `ATOMS`; a row of
    zeros is an image without degradation. ``group`` names the degradation group, such as ``09Lowlight_Haze``, and ``key`` the sample,
    uniquely within its data set.

    In training, ``draw`` names each use of a sample; equal names give equal noise. ``lq_latent`` and ``gt_latent`` replace the images: mean
    and log-variance ``[B, 2C, h, w]`` of the autoencoder's posterior as stored (fp16, bf16 or fp32), not shifted, scaled or sampled. The
    codec does that, with random numbers that depend on ``draw``.

    In evaluation, ``test_set`` names the test set; (group, key) is unique within it. ``degradations`` may include names outside `ATOMS`.
    ``gt`` is absent without ground truth. Not in the paper.
    """

    lq: NotRequired[torch.Tensor]
    gt: NotRequired[torch.Tensor]
    lq_latent: NotRequired[torch.Tensor]
    gt_latent: NotRequired[torch.Tensor]
    degradation: torch.Tensor
    group: list[str]
    key: list[str]
    draw: NotRequired[list[str]]
    test_set: NotRequired[list[str]]
    degradations: NotRequired[list[list[str]]]


def draw_names(batch: Batch, step: int) -> list[str]:
    """Return the name that seeds the random numbers of each image: its ``draw``, or else step and key."""
    return batch.get("draw") or [f"{step}/{key}" for key in batch["key"]]
