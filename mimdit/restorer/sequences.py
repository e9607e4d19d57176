"""Sequences: frames of one shot, restored with the same decisions so that nothing flickers."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mimdit.conditioner.shot import Shot
from mimdit.restorer.inference import Restoration
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings

NUM_READ = 8
"""Frames that a shot's decisions are read from."""


def shot_of(restorer: Restorer, frames: Iterable[torch.Tensor], settings: SamplingSettings) -> Shot:
    """Return the decisions for a shot, from the mean of the statistics of some of its frames. Not in the paper.

    Means and log-stds are averaged, not pooled over all pixels: a change of light within the shot must not pass for contrast of a frame.

    Args:
        restorer: The restorer.
        frames: Degraded frames ``[1, 3, H, W]`` in 0..1, at least one; only one at a time is in use.
        settings: Settings that all frames will be restored with.
    """
    read = []
    for frame in frames:
        conditioning = Restoration(restorer, frame, settings).conditioning
        read.append((conditioning.routing.features_MBF, conditioning.tone_BF, conditioning.identified))
    assert read, "a shot has at least one frame"
    features, tone, identified = (None if values[0] is None else torch.stack(values).mean(dim=0) for values in zip(*read))
    assert features is not None  # every block has gates
    with torch.no_grad():
        return Shot(restorer.conditioner.route(features), tone, identified)
