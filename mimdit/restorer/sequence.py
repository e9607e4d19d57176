"""Frames of one shot: gates and tone are decided once for all, so that nothing flickers. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.core.canvas import canvas
from mimdit.restorer.inference import Restoration
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings

REFERENCES = 4
"""Frames that decide for a shot."""


def reference_frames(count: int) -> list[int]:
    """Return the indices of at most `REFERENCES` frames, evenly spaced over a shot of ``count`` frames."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, REFERENCES))})


def decide_for_shot(restorer: Restorer, frames: Sequence[np.ndarray], settings: SamplingSettings | None = None) -> Decisions:
    """Return the gates and the tone for a shot, decided from frames of it as if they were one tall image.

    Pass them to `Restorer.restore` as ``decisions`` for every frame; its noise depends only on seed and size, so it is the same for all.

    Args:
        restorer: The restorer.
        frames: Frames ``[H, W, 1 or 3]`` of uint8 or uint16, such as the `reference_frames`, all of one size.
        settings: How to restore; None for the restorer's own settings.

    Raises:
        ValueError: There are no frames, or they differ in size.
    """
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"frames of one shot have sizes {sorted(sizes)}; give each shot its own call")
    height, width = sizes.pop()
    tall = canvas(1, 3, height * len(frames), width)
    for index, frame in enumerate(frames):
        values = torch.from_numpy(frame.astype(np.float32) / np.iinfo(frame.dtype).max)
        tall[0, :, index * height : (index + 1) * height] = values.permute(2, 0, 1)
    settings = replace(restorer.sampling_settings(settings), steer=None)  # steering follows for each frame
    return Restoration(restorer, tall, settings).conditioning.decisions
