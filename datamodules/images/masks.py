"""Masks of images: white where an image is to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.images.formats import UnreadableImageError, has_image_suffix
from datamodules.images.reading import read_photo


def find_mask(masks: Path, place: Path) -> Path:
    """Return the mask of an image: ``masks`` itself if it is a file, else the image of the name ``place`` in that folder.

    Args:
        masks: A mask for all images, or a folder of masks.
        place: Path of the image within its folder, without a suffix.

    Raises:
        UnreadableImageError: The folder holds no such mask, or several.
    """
    if not masks.is_dir():
        return masks
    folder = (masks / place).parent
    candidates = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in candidates if path.with_suffix("").name == place.name and has_image_suffix(path)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UnreadableImageError(f"one mask named {place}, with the suffix of an image, must be in {masks}; found {names}")
    return found[0]


def read_mask(path: Path) -> np.ndarray:
    """Return the brightness ``[H, W]`` of a mask, uint8 or uint16, upright.

    That of a color image is the mean of its channels. What is transparent is black: the colors under it may be anything.

    Raises:
        UnreadableImageError: The file is no image that can be read.
    """
    photo = read_photo(path)
    brightness = photo.pixels.mean(axis=2)
    if photo.alpha is not None:
        brightness = brightness * (photo.alpha / np.iinfo(photo.alpha.dtype).max)
    return brightness.round().astype(photo.pixels.dtype)
