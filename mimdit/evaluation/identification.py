"""Average precision of the identification of degradations. Not in the paper.

Shape legend: N images, A atoms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torchmetrics.functional.classification import binary_average_precision

from mimdit.core.batch import ATOMS


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision, 0..1, of the ranking of images by the probability of each degradation.

    Attributes:
        of_atoms: Average precision by degradation; those that no image or every image has are left out, because no ranking is
            defined there.
        mean: Their mean; NaN if there is none.
    """

    of_atoms: dict[str, float]
    mean: float


def average_precision(scores_NA: torch.Tensor, present_NA: torch.Tensor) -> AveragePrecision:
    """Return how well scores rank the images that have a degradation before those that have not.

    Args:
        scores_NA: Probabilities or logits ``[N, A]``; only their order within a column counts.
        present_NA: Multi-hot truth ``[N, A]`` over `mimdit.core.batch.ATOMS`.

    Raises:
        ValueError: The shapes differ, or A is not the number of atoms.
    """
    if scores_NA.shape != present_NA.shape or scores_NA.ndim != 2 or scores_NA.shape[1] != len(ATOMS):
        shapes = f"{list(scores_NA.shape)} and {list(present_NA.shape)}"
        raise ValueError(f"scores and truth have shapes {shapes}; give [N, {len(ATOMS)}] twice, in the order of {', '.join(ATOMS)}")
    of_atoms: dict[str, float] = {}
    for place, atom in enumerate(ATOMS):
        present_N = present_NA[:, place].bool()
        if present_N.any() and not present_N.all():
            # Ranks instead of scores: torchmetrics would squash logits in fp32, where large ones tie.
            ranks_N = scores_NA[:, place].unique(return_inverse=True)[1] / len(scores_NA)
            of_atoms[atom] = float(binary_average_precision(ranks_N, present_N.long()))
    return AveragePrecision(of_atoms, sum(of_atoms.values()) / len(of_atoms) if of_atoms else math.nan)
