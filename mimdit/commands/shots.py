"""Shots of ``mimdit restore --sequence``: what the frames of a folder share."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from datamodules.images import TooLargeImageError, UnreadableImageError, read_photo
from datamodules.images.finding import Job
from mimdit.conditioner.moe_conditioner import Decisions
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.sequence import decide_for_shot, reference_frames
from mimdit.restorer.temporal import average_still


class Shots:
    """Gates and tone of each shot, decided when its first frame comes, and its frames with still pixels averaged.

    Args:
        restorer: The restorer.
        frames: The frames of each shot, in order; `datamodules.images.find_shots`.
        settings: How to restore.
        smooth: Neighbors on each side of a frame that its still pixels are averaged with; 0 for none.

    Raises:
        ValueError: ``smooth`` is negative.
    """

    def __init__(self, restorer: Restorer, frames: list[list[Job]], settings: SamplingSettings, *, smooth: int) -> None:
        if smooth < 0:
            raise ValueError(f"smooth={smooth} is negative; use 0 to leave each frame as it is")
        self._restorer, self._settings, self._smooth = restorer, settings, smooth
        self._place = {job.source: (shot, index) for shot in frames for index, job in enumerate(shot)}
        self._last: tuple[list[Job], Decisions] | None = None
        self._read = lru_cache(maxsize=2 * smooth + 1)(_pixels)

    def decisions(self, job: Job) -> Decisions:
        """Return the decisions of the shot that contains ``job``.

        Raises:
            UnreadableImageError: None of its frames can be read.
        """
        shot, _ = self._place[job.source]
        if self._last is None or self._last[0] is not shot:
            self._last = shot, decide_for_shot(self._restorer, _references(shot), self._settings)
        return self._last[1]

    def averaged(self, job: Job, pixels: np.ndarray) -> np.ndarray:
        """Return the frame ``pixels [H, W, C]`` of ``job`` with its still pixels averaged; a neighbor that cannot be read is left out."""
        shot, index = self._place[job.source]
        near = [shot[other] for other in range(max(0, index - self._smooth), min(len(shot), index + self._smooth + 1)) if other != index]
        neighbors = [self._read(other) for other in near]
        return average_still(pixels, [neighbor for neighbor in neighbors if neighbor is not None])


def _references(shot: list[Job]) -> list[np.ndarray]:
    """Return the `reference_frames` of a shot; in place of one that cannot be read, the nearest that can be, and none twice."""
    read = cache(lambda index: _pixels(shot[index]))
    chosen: dict[int, np.ndarray] = {}
    for index in reference_frames(len(shot)):
        for other in _nearest_first(index, len(shot)):
            if (pixels := read(other)) is not None:
                chosen[other] = pixels
                break
        else:
            raise UnreadableImageError(f"no frame of its shot can be read, from {shot[0].source} to {shot[-1].source}; copy them anew")
    return [chosen[index] for index in sorted(chosen)]


def _nearest_first(index: int, count: int) -> list[int]:
    return sorted(range(count), key=lambda other: abs(other - index))


def _pixels(job: Job) -> np.ndarray | None:
    try:
        return read_photo(job.source).pixels
    except (UnreadableImageError, TooLargeImageError, OSError):  # reported when its own turn comes
        return None
