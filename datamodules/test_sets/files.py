"""Images in files: found under folders, read whole, paired by name."""

import re
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.decoding import check_sizes, decode_image
from datamodules.sources.layouts import images_below
from datamodules.test_sets.base import Contents, Entry, Images


def read_image(path: Path) -> np.ndarray:
    """The image of a file, upright, as uint8 RGB ``[H, W, 3]``.

    Raises:
        BadSampleError: It is no whole image.
        OSError: It cannot be read.
    """
    return decode_image(path.read_bytes(), str(path))


def load_pair(lq: Path, gt: Path | None) -> Images:
    """Read an image and its ground truth, if it has one.

    Raises:
        BadSampleError: One is no whole image, or their sizes differ.
    """
    degraded = read_image(lq)
    if gt is None:
        return degraded, None
    truth = read_image(gt)
    check_sizes(degraded, truth, f"{lq} and {gt}")
    return degraded, truth


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Every image below a folder by its path there without suffix, in order; more than one where only the suffixes differ.

    Raises:
        ValueError: It is no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of images")
    found: dict[str, list[Path]] = {}
    for image in images_below(folder, folder, "LQ"):
        found.setdefault(image.stem, []).append(folder / image.member.source)
    return {stem: sorted(found[stem]) for stem in sorted(found)}


def pair_folders(group: str, lq: Path, gt: Path, degradations: tuple[str, ...], truth_name: tuple[str, str] | None = None) -> Contents:
    """Pair the images of two folders by name.

    Args:
        group: The group they are of.
        lq: Degraded images.
        gt: Ground truths; several images may share one.
        degradations: What degraded the images.
        truth_name: A regular expression and its replacement that make a truth's name of an image's, suffixes aside, where they differ.
    """
    contents, truths = Contents(), images_by_stem(gt)
    used = set()
    for stem, paths in images_by_stem(lq).items():
        name = stem if stem in truths or truth_name is None else re.sub(*truth_name, stem, count=1)
        if len(paths) > 1 or len(truths.get(name, ())) > 1:
            several = paths if len(paths) > 1 else truths[name]
            contents.unpaired.append(f"{', '.join(map(str, several))}: they differ in their suffixes alone")
        elif name not in truths:
            contents.unpaired.append(f"{paths[0]}: no image {name}.* in {gt}")
        else:
            contents.entries.append(Entry(group, stem, degradations, partial(load_pair, paths[0], truths[name][0])))
        used.add(name)
    contents.unpaired += [f"{truths[name][0]}: no image in {lq} belongs to it" for name in truths if name not in used]
    return contents
