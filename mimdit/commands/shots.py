"""Shots of ``mimdit restore --sequence``: each folder's images are the numbered frames of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from datamodules.images import UnreadableImageError, read_photo, read_size
from datamodules.images.finding import Job
from mimdit.conditioner.shot import Shot
from mimdit.restorer.pixels import as_images
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import SamplingSettings
from mimdit.restorer.sequences import NUM_READ, shot_of


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Return the frames shot by shot, each in the order of its numbers: frame 10 after frame 9.

    Raises:
        ValueError: A folder's images are not the numbered frames of one shot, or differ in size.
    """
    ordered = sorted(jobs, key=lambda job: (job.source.parent, _natural(job.source)))
    for folder, frames in groupby(ordered, key=lambda job: job.source.parent):
        shot = list(frames)
        _check_numbers(folder, shot)
        _check_sizes(shot)
    return ordered


class Shots:
    """Decisions of the shots that frames belong to, made when a shot's first frame is asked for.

    They are read from frames evenly spaced over the whole shot, also from those whose results exist: an interrupted call continues with
    the same decisions.

    Args:
        restorer: The restorer.
        jobs: All frames of all shots, in the order of `in_order`.
        settings: How to restore.
    """

    def __init__(self, restorer: Restorer, jobs: Sequence[Job], settings: SamplingSettings) -> None:
        self._restorer, self._settings, self._jobs = restorer, settings, jobs
        self._latest: tuple[Path, Shot] | None = None

    def of(self, job: Job) -> Shot:
        """Return the decisions for the shot of ``job``.

        Raises:
            UnreadableImageError: None of the frames that they are read from can be read.
        """
        folder = job.source.parent
        if self._latest is None or self._latest[0] != folder:
            self._latest = None  # free its memory first
            self._latest = folder, shot_of(self._restorer, self._frames(folder), self._settings)
        return self._latest[1]

    def _frames(self, folder: Path) -> Iterator[torch.Tensor]:
        frames = [job.source for job in self._jobs if job.source.parent == folder and not job.problem]
        read = 0
        for index in np.linspace(0, len(frames) - 1, min(NUM_READ, len(frames))).round().astype(int):
            try:
                photo = read_photo(frames[index])
            except (UnreadableImageError, OSError):
                continue  # reported when its turn comes
            read += 1
            yield as_images(photo.pixels)
        if not read:
            raise UnreadableImageError("the frames that the decisions for its shot are read from cannot be read")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sorting key that compares numbers as numbers."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _check_numbers(folder: Path, shot: list[Job]) -> None:
    """Check that the names differ in one number only."""
    remedy = "give each shot a folder of its own, with frames named such as frame_0001.png"
    first = shot[0].source
    if unnumbered := next((job.source for job in shot if not re.search(r"\d", job.source.stem)), None):
        raise ValueError(f"{unnumbered} has no number, so it is no frame of a sequence; {remedy}")
    if other := next((job.source for job in shot if re.sub(r"\d+", "", job.source.stem) != re.sub(r"\d+", "", first.stem)), None):
        raise ValueError(f"{first} and {other.name} are not numbered alike, so they are not frames of one shot; {remedy}")
    numbers = zip(*(re.findall(r"\d+", job.source.stem) for job in shot))
    if sum(len(set(values)) > 1 for values in numbers) > 1:
        raise ValueError(f"the names in {folder} differ in more than one number, such as those of several shots; {remedy}")


def _check_sizes(shot: list[Job]) -> None:
    """Check that the headers' sizes are equal; frames that cannot be read are reported later."""
    first: tuple[Path, tuple[int, int]] | None = None
    for job in shot:
        try:
            size = None if job.problem else read_size(job.source)
        except (UnreadableImageError, OSError):
            continue
        if size is None:
            continue
        first = first or (job.source, size)
        if size != first[1]:
            sizes = f"{size[0]}x{size[1]} pixels and {first[0]} {first[1][0]}x{first[1][1]}"
            raise ValueError(f"{job.source} has {sizes}, but the frames of a shot have one size; give each shot a folder of its own")
