"""What a batch of image pairs is: the contract between the datamodules and the method."""

from typing import NotRequired, TypedDict

import torch

ATOMS = ("blur", "noise", "jpeg", "haze", "rain", "raindrop", "lowlight")
"""The elementary degradations, in the order of the multi-hot vector ``Batch["degradation"]`` (A = 7)."""


class Batch(TypedDict):
    """A batch of aligned pairs of a degraded image and its ground truth, as images or, in training alone, as cached latents.

    ``lq`` and ``gt`` are float32 ``[B, 3, H, W]`` in 0..1 (sRGB), ``degradation`` is a float32 multi-hot ``[B, A]`` over `ATOMS`
    (all zeros: the image needed nothing), ``group`` is the name of the degradation group, such as ``09Lowlight_Haze``, and ``key``
    names the sample uniquely inside its data set. In training ``draw`` names each use of a sample: equal names draw equal noise.
    ``lq_latent`` and ``gt_latent`` stand in for the images: mean and log-variance ``[B, 2C, h, w]`` of the autoencoder's posterior, as
    they were stored (fp16, bf16 or fp32), neither shifted nor scaled nor sampled; the codec does that, by ``draw``. In evaluation
    ``test_set`` names the test set of each image, inside which group and key are unique, and ``degradations`` what degraded it,
    also what is no atom; ``gt`` is missing where there is no truth. (ours)
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
    """What the random numbers of each image belong to: its ``draw``, or else the step and its key."""
    return batch.get("draw") or [f"{step}/{key}" for key in batch["key"]]
