"""Shots: folders of numbered frames."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.images.finding import Job
from datamodules.images.formats import UnreadableImageError
from datamodules.images.reading import read_upright_size


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Return a key that sorts names by the numbers in them: frame 2 before frame 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.split(r"(\d+)", path.name) if part]


def find_shots(jobs: list[Job]) -> list[list[Job]]:
    """Return the jobs of each folder as one shot, in natural order.

    Raises:
        ValueError: A frame cannot be read, or the frames of a shot, upright, differ in size.
    """
    folders: dict[Path, list[Job]] = {}
    for job in jobs:
        if job.problem:
            raise _unreadable(job, job.problem)
        folders.setdefault(job.source.parent, []).append(job)
    found = [sorted(frames, key=lambda job: natural_order(job.source)) for frames in folders.values()]
    for frames in found:
        first = _size(frames[0])
        for job in frames[1:]:
            if (size := _size(job)) != first:
                other = f"{frames[0].source.name} {first[0]}x{first[1]}"
                raise ValueError(
                    f"{job.source} has {size[0]}x{size[1]} pixels and {other}: they are not frames of one shot; put each shot into a "
                    "folder of its own, or leave out --sequence"
                )
    return found


def _size(job: Job) -> tuple[int, int]:
    try:
        return read_upright_size(job.source)
    except (UnreadableImageError, OSError) as error:
        raise _unreadable(job, error) from error


def _unreadable(job: Job, reason: object) -> ValueError:
    return ValueError(f"{job.source}: {reason}; a sequence needs all of its frames")
