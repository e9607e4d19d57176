"""Probabilities of the elementary degradations of whole images, from the conditioner's identification. Not in the paper.

AutoDIR (arXiv 2310.10123) also identifies the degradation before it restores.

Shape legend: B images, A atoms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.core.batch import ATOMS
from mimdit.restorer.inference import Progress, Restoration, ignore
from mimdit.restorer.pixels import images_of
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.selective import LIKELY

__all__ = ["LIKELY", "as_text", "check_identifies", "identify", "identify_pixels", "probabilities_of"]


def check_identifies(restorer: Restorer) -> None:
    """Check that the restorer identifies degradations.

    Raises:
        ValueError: Its conditioner has no identification head.
    """
    if restorer.conditioner.identification is None:
        raise ValueError(
            "these weights do not identify degradations: their conditioner has identify: false. Leave --checkpoint out for "
            "the embedded weights, or train with configs/ablation/identify.yaml (conditioner.identify: true, identify_weight above 0)"
        )


def identify(
    restorer: Restorer, images: torch.Tensor, settings: SamplingSettings | None = None, *, progress: Progress = ignore, **overrides: Any
) -> torch.Tensor:
    """Return the probability of each of `mimdit.core.batch.ATOMS`, ``[B, A]`` in 0..1, fp32.

    The features are pooled over the whole image at full resolution, also where the settings cut it into pieces, so the answer does not
    depend on ``tile`` (up to rounding). The DiT does not run.

    Args:
        restorer: The restorer.
        images: Degraded images ``[B, 3, H, W]`` in 0..1, of any size and on any device.
        settings: Settings whose ``tile`` limits the memory; None for the restorer's own.
        progress: Called after each unit of work with the fraction it completed.
        **overrides: Fields of `SamplingSettings` to change, such as ``tile=1024``.

    Raises:
        ValueError: The restorer has no identification head, or a setting is out of range.
    """
    check_identifies(restorer)
    settings = restorer.sampling_settings(settings, **overrides)
    settings = replace(settings, steps=0, steer=None, only=None, caution=0.0, prompting="none", prompt=None)
    logits = Restoration(restorer, images, settings, progress=progress).conditioning.identified
    assert logits is not None
    return torch.sigmoid(logits.float())


def identify_pixels(restorer: Restorer, pixels: np.ndarray, settings: SamplingSettings | None = None, **options: Any) -> dict[str, float]:
    """Return the probability in 0..1 of each degradation, by name, of one image.

    Args:
        restorer: The restorer.
        pixels: uint8 or uint16 of ``[H, W, 1 or 3]``.
        settings: As for `identify`.
        **options: Other arguments of `identify`.

    Raises:
        ValueError: As for `identify`, or the array is of another type or shape.
    """
    return dict(zip(ATOMS, identify(restorer, images_of(pixels), settings, **options)[0].tolist(), strict=True))


def probabilities_of(decisions: Decisions, image: int = 0) -> dict[str, float] | None:
    """Return the probabilities, by name, that were decided for one image; None without an identification head."""
    if decisions.identified is None:
        return None
    return dict(zip(ATOMS, torch.sigmoid(decisions.identified[image].float()).tolist(), strict=True))


def as_text(probabilities: dict[str, float]) -> str:
    """Return probabilities as text in percent, the most likely first, such as ``noise 97 %, blur 3 %``."""
    ordered = sorted(probabilities.items(), key=lambda named: -named[1])
    return ", ".join(f"{atom} {100 * probability:.0f} %" for atom, probability in ordered)
