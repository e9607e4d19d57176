"""Real photographs: scikit-image's for validation and test, sharp crops of a folder's for training."""

import hashlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from datamodules.images.formats import HEAD, UnreadableImageError, looks_like_image
from datamodules.images.reading import read_photo, read_size
from datamodules.synthetic.tone import retone

TEST = ("astronaut", "chelsea", "coffee", "rocket")
"""Photographs for the test only."""

VALIDATION = ("motorcycle_left", "camera", "grass", "coins")
"""Photographs that may guide choices during training."""

_FILES = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "motorcycle_left": "motorcycle_left.png",
    "camera": "camera.png",
    "grass": "grass.png",
    "coins": "coins.png",
}

LARGEST_SCALE = 0.9
"""Largest scale of a crop: below 1, so that averaging removes the photograph's own JPEG traces."""

SMALLEST_SCALE = 0.25
"""Smallest scale of a crop: below it, photographs are all edges."""

LEAST_DETAIL = 0.02
"""Root mean square of the lightness gradient (of 0..1, per pixel) below which a crop counts as flat or blurred."""

TRIES = 8
"""Attempts to find a crop with detail; the last one is taken as it is, so that some smooth images stay."""

_STREAM = 0xC409

_KEPT = 8
"""Decoded photographs that a process caches; at 1800 pixels they take 50 MB."""


def load_photograph(name: str) -> np.ndarray:
    """Read a photograph of `TEST` or `VALIDATION` as uint8 RGB ``[H, W, 3]``; gray ones get three equal channels.

    Of scikit-image's files, hubble, retina and ihc are left out because they have no defined exposure (a model cannot infer how bright a
    galaxy or a stain should be), and motorcycle_right because it shows the same as motorcycle_left. Nothing is downloaded.

    Raises:
        ValueError: The name is unknown, or the file is damaged.
        FileNotFoundError: The installed scikit-image lacks the file.
    """
    if name not in _FILES:
        raise ValueError(f"unknown photograph {name!r}: choose one of {', '.join(_FILES)}")
    path = Path(skimage.data.__file__).parent / _FILES[name]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the installed scikit-image lacks its sample images, reinstall it from a wheel")
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is damaged: reinstall scikit-image from a wheel")
    return np.ascontiguousarray(image[..., ::-1])


def photograph_crop(name: str, size: int = 256) -> np.ndarray:
    """Return the central ``[size, size, 3]`` of a photograph whose shorter side was first downscaled to ``size`` by area averaging.

    So the crop shows the subject and has sharp pixels, whatever the resolution of the camera.

    Raises:
        ValueError: The photograph is smaller than ``size``; upscaling would add blur.
    """
    return middle_crop(load_photograph(name), size, name)


def middle_crop(image: np.ndarray, size: int, name: str) -> np.ndarray:
    """Return the central ``[size, size, 3]`` of ``[H, W, 3]``, uint8, downscaled as in `photograph_crop`; ``name`` is for the error.

    Raises:
        ValueError: The image is smaller than ``size``.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short < size:
        raise ValueError(f"{name} is {width}x{height}, too small for a crop of {size}; set at most {short}")
    reduced = (max(size, round(width * size / short)), max(size, round(height * size / short)))
    image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def list_photographs(folder: Path, *, size: int, split: Path | None = None, options: tuple[str, ...] = ()) -> list[str]:
    """List the file names of a folder's photographs, sorted, without hidden files and files that are not images.

    Args:
        folder: The folder; its sub-folders are not read.
        size: Side of the crops in pixels; every photograph must be large enough for them.
        split: Text file of the names to keep, one per line; empty lines and lines that start with ``#`` are skipped.
        options: Options of the caller's that an error may advise: ``split``, ``size``.

    Raises:
        ValueError: The folder or the split is missing or empty, the split names a missing file, or a photograph is unreadable or too small.
    """
    if not folder.is_dir():
        raise ValueError(f"photographs is {folder}, which is not a folder; give a folder of image files.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".") and _is_image(path))
    if split is not None:
        listed = _read_split(split)
        if missing := sorted(listed - set(names)):
            raise ValueError(f"{split} lists {len(missing)} files that are not photographs of {folder}, e.g. {missing[0]!r}; correct it.")
        names = [name for name in names if name in listed]
    if not names:
        raise ValueError(f"{folder if split is None else split} holds no photographs; give at least one.")
    for name in names:
        try:
            short = min(read_size(folder / name))
        except UnreadableImageError as error:
            raise ValueError(f"{folder / name} cannot be read: {error}. Replace or remove it.") from error
        if short * LARGEST_SCALE < size:
            advice = {"split": "exclude it with --split", "size": "give a smaller --size"}
            remedies = ", or ".join(["Remove it", *(advice[option] for option in options)])
            raise ValueError(
                f"{folder / name} has a shorter side of {short} pixels; crops of {size} need at least {np.ceil(size / LARGEST_SCALE):.0f}. "
                f"{remedies}."
            )
    return names


def photographs_digest(folder: Path, names: list[str]) -> str:
    """Return the SHA-256 over the names and bytes of photographs, equal if and only if these are equal."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def detail(image: np.ndarray) -> float:
    """Return the root mean square of the lightness gradient of an image ``[H, W, 3]`` in 0..1, per pixel."""
    lightness = image.mean(axis=2)
    down, right = np.diff(lightness, axis=0)[:, :-1], np.diff(lightness, axis=1)[:-1]
    return float(np.sqrt((down**2 + right**2).mean()))


def random_crop(photograph: np.ndarray, size: int, *, seed: int, retoned: bool, least_detail: float = LEAST_DETAIL) -> np.ndarray:
    """Cut a random sharp crop, uint8 ``[size, size, 3]``, out of a photograph, uint8 RGB ``[H, W, 3]``; equal arguments give equal bytes.

    The scale is log-uniform between ``max(size / shorter side, SMALLEST_SCALE)`` and `LARGEST_SCALE`, the position and two flips are
    uniform, and downscaling averages areas. Crops with less than ``least_detail`` are replaced, with at most `TRIES` attempts.

    Args:
        photograph: The photograph.
        size: Side of the crop in pixels.
        seed: Seed of all random choices.
        retoned: If true, change the crop's tone to another natural one; the geometry is the same either way.
        least_detail: `detail` from which a crop is taken; 0 takes every one.

    Raises:
        ValueError: The photograph is too small; upscaling would add blur.
    """
    height, width = photograph.shape[:2]
    short = min(height, width)
    if short * LARGEST_SCALE < size:
        most = int(short * LARGEST_SCALE)
        raise ValueError(f"a photograph of {width}x{height} is too small for sharp crops of {size}; set at most {most}")
    rng = np.random.default_rng([_STREAM, seed])
    for _ in range(TRIES):
        scale = np.exp(rng.uniform(np.log(max(size / short, SMALLEST_SCALE)), np.log(LARGEST_SCALE)))
        side = min(round(size / scale), short)
        top, left = (int(rng.integers(extent - side + 1)) for extent in (height, width))
        window = photograph[top : top + side, left : left + side].astype(np.float32) / np.float32(255.0)
        crop = cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA)
        crop = crop[:: rng.choice([1, -1]), :: rng.choice([1, -1])]
        if detail(crop) >= least_detail:
            break
    if retoned:
        crop = retone(crop, np.random.default_rng([_STREAM, 1, seed]))
    return np.rint(np.clip(crop, 0.0, 1.0) * 255.0).astype(np.uint8)


@lru_cache(maxsize=_KEPT)
def read_photograph(path: Path) -> np.ndarray:
    """Read a photograph upright as uint8 RGB ``[H, W, 3]``, read-only; the last few are cached.

    Raises:
        ValueError: The file cannot be read completely; the message names it.
    """
    try:
        pixels = read_photo(path).pixels
    except UnreadableImageError as error:
        raise ValueError(f"{path} cannot be read: {error}. Replace or remove it.") from error
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
        raise ValueError(f"split is {split}, which is not a file; give a text file of file names, one per line.")
    lines = (line.strip() for line in split.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line and not line.startswith("#")}
