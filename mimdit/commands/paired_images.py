"""Restored images of two runs, paired by name, and their degraded ones."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from datamodules.images import Photo, UnreadableImageError, read_photo
from datamodules.images.finding import list_images
from datamodules.images.fitting import to_8_bits
from datamodules.images.formats import has_image_suffix

_MOST_NAMED = 20
"""Number of names that a message lists."""


@dataclass(frozen=True)
class Pair:
    """Files of one image.

    Attributes:
        name: Its name, with sub-folders and without a suffix.
        a: The image of run A.
        b: The image of run B.
        degraded: The degraded image, or None.
    """

    name: str
    a: Path
    b: Path
    degraded: Path | None = None


def pair_images(a: Path, b: Path, degraded: Path | None = None) -> list[Pair]:
    """Pair the images of two folders by their names, in order of names.

    Formats may differ. Charts that ``mimdit restore --explain`` writes beside results, NAME.gates.png, are left out.

    Args:
        a: Folder of run A's results.
        b: Folder of run B's results.
        degraded: Folder of the degraded images, which may hold more; None for none.

    Raises:
        ValueError: A folder is missing, a name is in only one of the first two, or a degraded image is missing.
    """
    of_a, of_b = _by_name(a), _by_name(b)
    if of_a.keys() != of_b.keys():
        lacking = {a: of_a.keys() - of_b.keys(), b: of_b.keys() - of_a.keys()}
        named = "; ".join(f"only in {folder}: {_listed(names)}" for folder, names in lacking.items() if names)
        raise ValueError(f"{named}; restore the same photographs to both folders, or remove what is in only one")
    inputs = {} if degraded is None else _by_name(degraded)
    if degraded is not None and (missing := of_a.keys() - inputs):
        raise ValueError(f"{degraded} has no degraded image for {_listed(missing)}; give the folder that was restored, or leave it out")
    return [Pair(name, of_a[name], of_b[name], inputs.get(name)) for name in sorted(of_a)]


def digests(pairs: Iterable[Pair]) -> tuple[str, str]:
    """Read all images once and return a digest of run A's pixels and one of run B's.

    Raises:
        ValueError: Images cannot be read, or those of one name differ in size; the message lists them.
    """
    found = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    problems = []
    for pair in pairs:
        sizes: dict[Path, tuple[int, int]] = {}
        for path, digest in zip((pair.a, pair.b, pair.degraded), (*found, None)):
            if path is None:
                continue
            try:
                image = read_displayed(path)
            except (UnreadableImageError, OSError, MemoryError) as error:
                problems.append(f"{path}: {error or 'there is not enough memory for it'}")
                continue
            sizes[path] = image.size
            if digest is not None:
                digest.update(f"{pair.name}\0{image.mode}\0{image.size}\0".encode())
                digest.update(image.tobytes())
        if len(set(sizes.values())) > 1:
            problems.append(", ".join(f"{path} has {width}x{height} pixels" for path, (width, height) in sizes.items()))
    if problems:
        raise ValueError(f"{_listed(problems, '; ')}. Give images that can be read, of equal size for each name")
    return found[0].hexdigest(), found[1].hexdigest()


def read_displayed(path: Path) -> Image.Image:
    """Read an image as a web page shows it: upright, sRGB of 8 bits, with its transparency and without any metadata.

    Raises:
        UnreadableImageError: It cannot be read, or its color profile cannot be used.
    """
    photo = read_photo(path)
    image = Image.fromarray(_as_8_bits(photo.pixels).squeeze(2) if photo.pixels.shape[2] == 1 else _as_8_bits(photo.pixels))
    shown = image.convert("RGB") if photo.icc is None else _in_srgb(image, photo)
    if photo.alpha is not None:
        shown.putalpha(Image.fromarray(_as_8_bits(photo.alpha)))
    shown.info.clear()
    return shown


def _in_srgb(image: Image.Image, photo: Photo) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(photo.icc or b""))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise UnreadableImageError(f"its color profile cannot be used ({error}); remove the profile") from error
    assert converted is not None  # only in place
    return converted


def _as_8_bits(values: np.ndarray) -> np.ndarray:
    return to_8_bits(values) if values.dtype == np.uint16 else values


def _by_name(folder: Path) -> dict[str, Path]:
    """Return a folder's images by the names that their results have: without a suffix, unless several share a stem."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a folder of images")
    places = {path.relative_to(folder): path for path, _ in list_images([folder])}
    stems = Counter(map(_stem, places))
    names = {place: (_stem(place) if stems[_stem(place)] == 1 else place).as_posix() for place in places}
    charts = {name for name in names.values() if name.endswith(".gates") and name.removesuffix(".gates") in names.values()}
    return {name: places[place] for place, name in names.items() if name not in charts}


def _stem(place: Path) -> Path:
    return place.with_suffix("") if has_image_suffix(place) else place


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    ordered = sorted(names)
    more = f"{separator}and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return separator.join(ordered[:_MOST_NAMED]) + more
