"""Removal of some degradations while the others stay: ``only=["haze"]``. Not in the paper.

AutoDIR (arXiv 2310.10123) restores one degradation at a time, chosen by text, with a model trained for it. Here the correction of any
restorer with an identification head is divided, without training, into two parts:

- **fine**: the correction of the image above a Gaussian low-pass. Noise, JPEG blocks, rain, drops and blur are in it.
- **tone**: haze and darkness. It is decided on the image without the fine part, because noise hides haze from the restorer. Darkness is
  decided at full size. Haze is decided at that size, the image's own or one of `SCALES` times smaller, at which it stands out most: without
  the detail that goes with the noise, a hazy image at full size is easily taken for a dark one. The tone is corrected `PASSES` times.

The result is the image plus those parts, so that noise which stays keeps its amplitude. Each part is scaled by `share`.

Shape legend: B images, A atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.core.batch import ATOMS
from mimdit.core.canvas import in_rows
from mimdit.restorer.correction import corrected, low_pass
from mimdit.restorer.inference import Progress, Restoration, ignore
from mimdit.restorer.sampling import SamplingSettings

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer

REMOVABLE_TONE = ("haze", "lowlight")
"""Degradations of the tone; all others belong to the fine part, rain too: unlike in `mimdit.restorer.caution`, its veil stays."""

LIKELY = 0.5
"""Probability from which a degradation counts as present."""

SCALES = (1, 2, 3, 4)
"""Factors by which the image is reduced to decide how much haze there is."""

PASSES = 3
"""Times that the tone is corrected, each time by what is still found: in one pass the restorer corrects too little."""

_SMALLEST = 32
"""Side in pixels below which an image is not reduced."""


def share(probabilities_BA: torch.Tensor, only: Sequence[str], part: Sequence[str]) -> torch.Tensor:
    """Return how much of a part's correction belongs to the degradations ``only``, ``[B]`` in 0..1.

    Each degradation counts 1 from a probability of `LIKELY` on and less in proportion below; of the others only the likely ones count. The
    share is the count of ``only``, divided by that of all where that exceeds 1: degradations of one part are not distinguished; they share
    it.

    Args:
        probabilities_BA: Probabilities of `mimdit.core.batch.ATOMS`.
        only: Names of the degradations to remove.
        part: Names of the degradations in the part.
    """
    counts_BA = (probabilities_BA / LIKELY).clamp_max(1)
    chosen_B = counts_BA[:, [ATOMS.index(atom) for atom in part if atom in only]].sum(dim=1)
    others_BA = counts_BA[:, [ATOMS.index(atom) for atom in part if atom not in only]]
    return chosen_B / (chosen_B + others_BA.floor().sum(dim=1)).clamp_min(1)


@torch.no_grad()
def restore_only(
    restorer: Restorer,
    images: torch.Tensor,
    settings: SamplingSettings,
    *,
    progress: Progress = ignore,
    on_decisions: Callable[[Decisions], None] = ignore,
    **options: Any,
) -> torch.Tensor:
    """Remove the degradations ``settings.only`` from images and keep the others.

    Args:
        restorer: A restorer with an identification head.
        images: Degraded images ``[B, 3, H, W]`` in 0..1, on any device.
        settings: Settings with ``only``.
        progress: As for `Restorer.restore`.
        on_decisions: Called at the end with the decisions for the images as they are.
        **options: Arguments of `mimdit.restorer.inference.Restoration.sample`.

    Returns:
        Restored images ``[B, 3, H, W]`` in 0..1, fp32, on the device of ``images``.
    """
    assert settings.only
    fine = tuple(atom for atom in ATOMS if atom not in REMOVABLE_TONE)
    settings, only = replace(settings, only=None, caution=0.0), settings.only
    toned = any(atom in REMOVABLE_TONE for atom in only)
    first_share = 1 / (1 + PASSES) if toned else 1.0

    whole = Restoration(restorer, images, settings, progress=lambda fraction: progress(first_share * fraction))
    decisions = whole.conditioning.decisions
    weights = share(_probabilities(whole), only, fine).to(images.device)
    zeros_B = torch.zeros_like(weights)
    restored = whole.sample(**options).to(images.device)
    del whole
    result = corrected(images, restored, fine_B=weights, tone_B=zeros_B)
    if toned:
        cleaned = corrected(images, restored, fine_B=zeros_B + 1, tone_B=zeros_B)
        for index in range(len(images)):
            for _ in range(PASSES):
                scale, change, weight = _tone_change(restorer, cleaned[index : index + 1], settings, only, options)
                _add_tone(result[index : index + 1], change, weight, scale)
                _add_tone(cleaned[index : index + 1], change, weight, scale)
                progress((1 - first_share) / (len(images) * PASSES))
    on_decisions(decisions)
    return result


def _tone_change(
    restorer: Restorer, image: torch.Tensor, settings: SamplingSettings, only: Sequence[str], options: dict[str, Any]
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the scale at which the tone of ``image [1, 3, H, W]`` is decided, the correction at that size, and its share.

    With haze it is the scale at which the probability of ``only`` exceeds that of the other degradations of the tone most.
    """
    signs = {ATOMS.index(atom): 1 if atom in only else -1 for atom in REMOVABLE_TONE}
    found: tuple[float, int, Restoration] | None = None
    for scale in SCALES if "haze" in only else (1,):
        if scale > 1 and min(image.shape[2:]) < scale * _SMALLEST:
            break
        reduced = image if scale == 1 else torch.nn.functional.avg_pool2d(image, scale, ceil_mode=True)
        restoration = Restoration(restorer, reduced, settings)
        probabilities_A = _probabilities(restoration)[0]
        margin = sum(sign * float(probabilities_A[column]) for column, sign in signs.items())
        if found is None or margin > found[0]:
            found = margin, scale, restoration
    assert found is not None
    _, scale, restoration = found
    weight = share(_probabilities(restoration), only, REMOVABLE_TONE)
    change = restoration.sample(**options).to(image.device).sub_(restoration.images.to(image.device))
    return scale, change, weight.to(image.device)


def _probabilities(restoration: Restoration) -> torch.Tensor:
    identified = restoration.conditioning.identified
    assert identified is not None, "check_settings requires an identification head"
    return torch.sigmoid(identified.float())


def _add_tone(image: torch.Tensor, change: torch.Tensor, weight: torch.Tensor, scale: int) -> None:
    """Add ``weight * change`` to ``image [1, 3, H, W]`` in place; ``change`` is smaller by ``scale`` and is interpolated smoothly."""
    for rows in in_rows(*image.shape[2:]):
        own = change[:, :, rows] if scale == 1 else low_pass(change, rows, image.shape[2:], scale=scale)
        image[:, :, rows] = (image[:, :, rows] + weight[:, None, None, None] * own).clamp_(0, 1)
