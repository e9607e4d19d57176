"""Masks of images: white where an image is to change."""

from __future__ import annotations

from pathlib import Path

from datamodules.images.formats import UnreadableImageError, has_image_suffix


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
