"""Masks of ``mimdit restore``: one for all images, or a folder of them, paired by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from datamodules.images import UnreadableImageError, read_photo, read_size
from datamodules.images.finding import Job
from datamodules.images.formats import has_image_suffix

Masks = Mapping[Path, Path]
"""Files of masks by the target of the job."""


def masks_of(jobs: Iterable[Job], masks: Path, output: Path) -> Masks:
    """Return the mask of each image: ``masks`` itself, or if it is a folder the file in it that is named like the image's result.

    Args:
        jobs: The images to restore; those with a problem need no mask.
        masks: A file, or a folder with the sub-folders and names of the results; suffixes may differ.
        output: Folder of the results.

    Raises:
        ValueError: An image has no mask, a mask cannot be read, or its size is not that of its image.
    """
    jobs = [job for job in jobs if not job.problem]
    if not masks.exists():
        raise ValueError(f"mask {masks} does not exist; give an image, or a folder of images named like the results")
    paired = {job.target: _named_like(job, masks, output) if masks.is_dir() else masks for job in jobs}
    for job in jobs:
        _check_sizes(job.source, paired[job.target])
    return paired


def read_mask(path: Path) -> np.ndarray:
    """Return a mask upright, fp32 ``[H, W, 1 or 3]`` in 0..1; what is transparent in it is black.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        photo = read_photo(path)
    except (UnreadableImageError, OSError) as error:
        raise ValueError(f"mask {path}: {error}") from error
    most = np.float32(np.iinfo(photo.pixels.dtype).max)
    mask = photo.pixels.astype(np.float32) / most
    return mask if photo.alpha is None else mask * (photo.alpha.astype(np.float32) / most)[:, :, None]


def _named_like(job: Job, masks: Path, output: Path) -> Path:
    """Return the image in the folder ``masks`` whose path there is that of the job's result, up to the suffix."""
    place = Path(job.target.name) if job.target == output else job.target.relative_to(output)
    wanted = masks / place.with_suffix("")
    beside = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    found = [path for path in beside if path.with_suffix("") == wanted and has_image_suffix(path)]
    if len(found) != 1:
        count = "no mask" if not found else f"{len(found)} masks"
        raise ValueError(f"{masks} has {count} for {job.source}; give it exactly one, such as {wanted}.png")
    return found[0]


def _check_sizes(source: Path, mask: Path) -> None:
    """Compare the sizes in the headers, either way around: orientation is known once the pixels are read."""
    try:
        size = read_size(source)
    except (UnreadableImageError, OSError):
        return  # reported with the image
    try:
        of_mask = read_size(mask)
    except (UnreadableImageError, OSError) as error:
        raise ValueError(f"mask {mask}: {error}") from error
    if sorted(size) != sorted(of_mask):
        sizes = f"is {of_mask[0]}x{of_mask[1]} pixels and {source} {size[0]}x{size[1]}"
        raise ValueError(f"mask {mask} {sizes}; give a mask of the image's size")
