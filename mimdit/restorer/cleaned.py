"""Training images without the fine part of their own correction, so that their tone is judged as it is after denoising. Not in the paper.

`mimdit.restorer.selective` decides the tone of a noisy image after its noise is gone. A denoised image is smoother than any photograph, and
a conditioner that never saw one takes its smoothness for darkness.

Shape legend: B images, A atoms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mimdit.core.batch import ATOMS
from mimdit.core.rng import keyed_generator
from mimdit.restorer.correction import tone_of

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer

CLEANED = ("noise", "jpeg")
"""Degradations that go with the fine part of a correction; blur and drops largely stay."""


def clean_in_some_steps(restorer: Restorer, degraded: torch.Tensor, degradation_BA: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents ``[B, C, H, W]`` and degradations ``[B, A]``, in a share ``restorer.cleaned_share`` of the steps without `CLEANED`.

    There, the images with one of these become the degraded image plus the fine part of the conditioner's estimate, and lose the label. In
    the other steps, and for other images, nothing changes. A step's number and the seed decide, on all ranks alike, because a sharded
    conditioner needs the same passes everywhere.

    Args:
        restorer: A restorer with an estimate and one latent a pixel.
        degraded: Latents of the degraded images.
        degradation_BA: Multi-hot degradations.
    """
    drawn = torch.rand((), generator=keyed_generator(restorer.seed, "cleaned", restorer.global_step))
    if float(drawn) >= restorer.cleaned_share:
        return degraded, degradation_BA
    with torch.no_grad():
        estimate = restorer.conditioner(degraded).estimate
        assert estimate is not None, "check_cleaned requires an estimate"
        change = estimate.float() - degraded.float()
        cleaned = (degraded.float() + change - tone_of(change)).clamp(-1, 1).to(degraded.dtype)
    columns = [ATOMS.index(atom) for atom in CLEANED]
    chosen_B = degradation_BA[:, columns].amax(dim=1) > 0
    remaining_BA = degradation_BA.clone()
    remaining_BA[:, columns] = 0
    return torch.where(chosen_B[:, None, None, None], cleaned, degraded), remaining_BA
