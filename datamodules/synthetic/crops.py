"""Sharp crops of a folder's photographs: clean images to train on beside made scenes."""

import hashlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from datamodules.images.formats import HEAD, UnreadableImageError, looks_like_image
from datamodules.images.reading import read_photo, read_size
from datamodules.synthetic.tone import retone

LARGEST_SCALE = 0.9
"""Crops are reduced at least to this share of the photograph's size, so that JPEG's own traces are averaged away."""

SMALLEST_SCALE = 0.25
"""Crops are reduced at most to this share: further down, photographs are all edges."""

LEAST_DETAIL = 0.02
"""Root mean square of the lightness's gradient (of 0..1, a pixel) below which a crop counts as flat or blurred."""

TRIES = 8
"""Draws of a crop; the last is taken as it is, so that some smooth images stay."""

_STREAM = 0xC409
_KEPT = 8
"""Decoded photographs that a process keeps; at 1800 pixels they take 50 MB."""


def list_photographs(folder: Path, *, size: int, split: Path | None = None) -> list[str]:
    """List the file names of a folder's photographs, sorted; hidden files and files that are no images are left out.

    Args:
        folder: The folder; its sub-folders are not read.
        size: Side of the crops in pixels; every photograph must be large enough for them.
        split: Text file of the names to keep, one a line; empty lines and lines that start with ``#`` are skipped.

    Raises:
        ValueError: The folder or the split is missing or empty, the split names a file that is not there, or a photograph is unreadable
            or too small.
    """
    if not folder.is_dir():
        raise ValueError(f"photographs is {folder}, which is no folder; give a folder of image files.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".") and _is_image(path))
    if split is not None:
        listed = _read_split(split)
        if missing := sorted(listed - set(names)):
            raise ValueError(f"{split} lists {len(missing)} files that are no photographs of {folder}, e.g. {missing[0]!r}; correct it.")
        names = [name for name in names if name in listed]
    if not names:
        raise ValueError(f"{folder if split is None else split} holds no photographs; give at least one.")
    for name in names:
        try:
            short = min(read_size(folder / name))
        except UnreadableImageError as error:
            raise ValueError(f"{folder / name} cannot be read: {error}. Replace or remove it.") from error
        if short * LARGEST_SCALE < size:
            raise ValueError(
                f"{folder / name} has a shorter side of {short} pixels; crops of {size} need at least {np.ceil(size / LARGEST_SCALE):.0f}. "
                "Remove it, leave it out by --split, or give a smaller --size."
            )
    return names


def photographs_digest(folder: Path, names: list[str]) -> str:
    """Return the SHA-256 over the names and bytes of photographs: equal when and only when they are."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def detail(image: np.ndarray) -> float:
    """Return the root mean square of the lightness's gradient of an image ``[H, W, 3]`` in 0..1, per pixel."""
    lightness = image.mean(axis=2)
    down, right = np.diff(lightness, axis=0)[:, :-1], np.diff(lightness, axis=1)[:-1]
    return float(np.sqrt((down**2 + right**2).mean()))


def draw_crop(photograph: np.ndarray, size: int, *, seed: int, retoned: bool) -> np.ndarray:
    """Draw a sharp crop, uint8 ``[size, size, 3]``, of a photograph, uint8 RGB ``[H, W, 3]``; equal arguments give equal bytes.

    The scale is uniform in its logarithm between ``max(size / shorter side, SMALLEST_SCALE)`` and `LARGEST_SCALE`, the position and two
    flips are uniform, the reduction is by area averaging. Crops with less than `LEAST_DETAIL` are drawn anew, `TRIES` times at most.

    Args:
        photograph: The photograph.
        size: Side of the crop in pixels.
        seed: Seed of everything that is drawn.
        retoned: Give the crop another natural tone; the geometry is the same either way.

    Raises:
        ValueError: The photograph is too small: enlarging it would invent blur.
    """
    height, width = photograph.shape[:2]
    short = min(height, width)
    if short * LARGEST_SCALE < size:
        most = int(short * LARGEST_SCALE)
        raise ValueError(f"a photograph of {width}x{height} is too small for sharp crops of {size}: ask for at most {most}")
    rng = np.random.default_rng([_STREAM, seed])
    for _ in range(TRIES):
        scale = np.exp(rng.uniform(np.log(max(size / short, SMALLEST_SCALE)), np.log(LARGEST_SCALE)))
        side = min(round(size / scale), short)
        top, left = (int(rng.integers(extent - side + 1)) for extent in (height, width))
        window = photograph[top : top + side, left : left + side].astype(np.float32) / np.float32(255.0)
        crop = cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA)
        crop = crop[:: rng.choice([1, -1]), :: rng.choice([1, -1])]
        if detail(crop) >= LEAST_DETAIL:
            break
    if retoned:
        crop = retone(crop, np.random.default_rng([_STREAM, 1, seed]))
    return np.rint(np.clip(crop, 0.0, 1.0) * 255.0).astype(np.uint8)


@lru_cache(maxsize=_KEPT)
def read_photograph(path: Path) -> np.ndarray:
    """Read a photograph upright as uint8 RGB ``[H, W, 3]``, not writable; the last few are kept in memory.

    Raises:
        ValueError: The file cannot be read whole; the message names it.
    """
    try:
        pixels = read_photo(path).pixels
    except UnreadableImageError as error:
        raise ValueError(f"{path} cannot be read: {error}. Replace or remove it, or leave it out by --split.") from error
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257.0).astype(np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    image.flags.writeable = False
    return image


def _is_image(path: Path) -> bool:
    with open(path, "rb") as file:
        return looks_like_image(path, file.read(HEAD))


def _read_split(split: Path) -> set[str]:
    if not split.is_file():
        raise ValueError(f"split is {split}, which is no file; give a text file of file names, one a line.")
    lines = (line.strip() for line in split.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line and not line.startswith("#")}
