"""Measurement of a restorer on pairs: its PSNR, the use of its experts, and its gates by degradation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.data import Subset
from tqdm import tqdm

from datamodules.collation import collate
from datamodules.pairs import open_pairs
from datamodules.shards import ShardStore
from mimdit.evaluation.metrics import psnr
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.steering import MeasuredGates
from mimdit.routing.routing import Routing
from mimdit.routing.utilization import UtilizationCounts, utilization


@dataclass(frozen=True)
class Measured:
    """A measurement.

    Attributes:
        psnr: Mean PSNR in dB.
        load_MGE: Use of the sub-experts ``[M, G, E]`` as shares of each gate's choices.
        gates: Mean gates of each degradation.
    """

    psnr: float
    load_MGE: torch.Tensor
    gates: MeasuredGates


def measure(restorer: Restorer, data: str, images: int, title: str) -> Measured:
    """Restore the first ``images`` pairs of shards or of a folder, which take the degradation groups in turn.

    Args:
        restorer: The restorer.
        data: Shards, or a folder of pairs.
        images: Maximum number of images to restore.
        title: Title of the progress bar.

    Raises:
        ValueError: There are no pairs.
    """
    pairs = open_pairs(data, ShardStore())
    if not len(pairs):
        raise ValueError(f"{data} holds no pairs; give validation shards, or a folder of pairs")
    counts, records, scores = UtilizationCounts(), [], []
    for pair in tqdm(Subset(pairs, range(min(images, len(pairs)))), desc=title):
        batch, seen = collate([pair]), list[Routing]()
        restored = restorer.restore(batch["lq"], explain=seen.append)
        scores.append(psnr(restored, batch["gt"]))
        counts.update(seen[0], batch["degradation"])
        records.append((seen[0], batch["degradation"]))
    return Measured(float(torch.cat(scores).mean()), utilization(counts).load_MGE, MeasuredGates.over(records))
