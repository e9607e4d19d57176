"""Image files of test sets: finding, reading, pairing by name and adding noise; and the degradations in a set's name."""

import re
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.decoding import check_sizes, decode_image
from datamodules.degradations.groups import atoms_of_group
from datamodules.rng import named_rng
from datamodules.sources.layouts import images_below, is_group
from datamodules.test_sets.base import Contents, Entry, Images

_WORDS = {
    "blur": "gopro hide realblur blur blurry deblur deblurring motion",
    "noise": "noise noisy denoise denoising bsd68 cbsd68 kodak24 urban100 sidd polyu dnd",
    "jpeg": "jpeg compressed compression",
    "haze": "haze hazy dehaze dehazing sots rtts urhi reside ots",
    "rain": "rain rainy derain deraining rain100l rain100h test100 test1200 test2800 rain13k",
    "raindrop": "raindrop raindrops",
    "lowlight": "low lowlight lol lolv1 lolv2 eval15 dicm lime mef npe vv enhance",
    "snow": "snow snowy snow100k",
    "shadow": "shadowed",
    "inpainting": "uncompleted",
    "moire": "moire moir demoire demoireing",
    "flare": "flare deflare deflaring",
    "reflection": "reflection reflections dereflection",
}
_OF_WORD = {word: name for name, words in _WORDS.items() for word in words.split()}

SIGMAS = (15, 25, 50)
"""Standard deviations of noise, on 0..255, that papers report."""


def read_image(path: Path) -> np.ndarray:
    """Read an image file upright, as uint8 RGB ``[H, W, 3]``.

    Raises:
        BadSampleError: It is not a whole image.
        OSError: It cannot be read.
    """
    return decode_image(path.read_bytes(), str(path))


def load_pair(lq: Path, gt: Path | None) -> Images:
    """Read an image and its ground truth, if it has one.

    Raises:
        BadSampleError: One is not a whole image, or their sizes differ.
    """
    degraded = read_image(lq)
    if gt is None:
        return degraded, None
    truth = read_image(gt)
    check_sizes(degraded, truth, f"{lq} and {gt}")
    return degraded, truth


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return every image below a folder by its path there without suffix, in order; several where only the suffixes differ.

    Raises:
        ValueError: It is not a folder.
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
        group: Degradation group of the images.
        lq: Folder of degraded images.
        gt: Folder of ground truths; several images may share one.
        degradations: Names of the images' degradations.
        truth_name: Regular expression and replacement that turn an image's name into its truth's, without suffixes, where they differ.
    """
    contents, truths = Contents(), images_by_stem(gt)
    used = set()
    for stem, paths in images_by_stem(lq).items():
        name = stem if stem in truths or truth_name is None else re.sub(*truth_name, stem, count=1)
        if len(paths) > 1 or len(truths.get(name, ())) > 1:
            several = paths if len(paths) > 1 else truths[name]
            contents.unpaired.append(f"{', '.join(map(str, several))}: only their suffixes differ")
        elif name not in truths:
            contents.unpaired.append(f"{paths[0]}: no image {name}.* in {gt}")
        else:
            contents.entries.append(Entry(group, stem, degradations, partial(load_pair, paths[0], truths[name][0])))
        used.add(name)
    contents.unpaired += [f"{truths[name][0]}: no image in {lq} belongs to it" for name in truths if name not in used]
    return contents


def noisy_images(name: str, folder: Path, sigmas: tuple[int, ...] = SIGMAS, seed: int = 0) -> Contents:
    """Return every image of a folder once per sigma, in groups ``<name> sigma15`` and so on.

    The noise is Gaussian on 0..255, clipped and truncated to whole numbers, as in PromptIR and AirNet. PromptIR draws from one generator
    image after image; here the draws depend only on seed, file name and sigma, not on the number of processes or the choice of images.
    """
    contents = Contents()
    for stem, paths in images_by_stem(folder).items():
        if len(paths) > 1:
            contents.unpaired.append(f"{', '.join(map(str, paths))}: only their suffixes differ")
            continue
        for sigma in sigmas:
            group = f"{name} sigma{sigma}"
            contents.entries.append(Entry(group, stem, ("noise",), partial(_load_noisy, paths[0], sigma, seed)))
    return contents


def _load_noisy(path: Path, sigma: int, seed: int) -> Images:
    clean = read_image(path)
    noise = named_rng(seed, "noise", path.stem, sigma).standard_normal(clean.shape)
    return np.clip(clean + noise * sigma, 0, 255).astype(np.uint8), clean


def degradations_of(name: str) -> tuple[str, ...]:
    """Return the degradations in the name of a set or group, `mimdit.core.batch.ATOMS` and others; empty where the name has none.

    Examples are ``09Lowlight_Haze``, ``GoPro``, ``motion-blurry``, ``low-light`` and CDD-11's ``low_haze_rain``.
    """
    if is_group(name):
        return atoms_of_group(name)
    words = re.split(r"[^a-z0-9]+", name.lower())
    return tuple(dict.fromkeys(_OF_WORD[word] for word in words if word in _OF_WORD))
