"""Test sets degraded by the formulas of albumentations 2.0.8 (MIT) instead of this project's.

    python benchmarks/foreign.py data/foreign                                        # validation/ and test/: 108 pairs each
    python benchmarks/foreign.py data/foreign --photographs FOLDER   # photographs/: a larger set for choosing

One folder for each kind with ``lq/`` and ``gt/``, as `datamodules.test_sets.PairFolders` reads them:

    foreign: {class_path: datamodules.test_sets.PairFolders, init_args: {root: data/foreign/test}}

Nothing is trained on these kinds. Choose models on ``validation``; score ``test`` once per candidate. `KINDS` has parameters and seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datamodules.synthetic.photographs import TEST, VALIDATION, list_photographs, middle_crop, photograph_crop, read_photograph
from mimdit.core.files import replace_when_whole

VERSION = "2.0.8"
HALVES = {"validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Kind:
    """A transform of albumentations with three sets of parameters, weak to strong, and the seed of each."""

    transform: str
    parameters: tuple[dict, dict, dict]
    seeds: tuple[int, int, int]


KINDS = {
    "noise_gauss": Kind("GaussNoise", tuple({"std_range": (s / 255, s / 255)} for s in (15, 25, 40)), (101, 102, 103)),
    "noise_iso": Kind(
        "ISONoise", tuple({"color_shift": (c, c), "intensity": (i, i)} for c, i in ((0.01, 0.2), (0.03, 0.4), (0.05, 0.6))), (201, 202, 203)
    ),
    "blur_motion": Kind("MotionBlur", tuple({"blur_limit": (n, n), "allow_shifted": False} for n in (5, 9, 13)), (301, 302, 303)),
    "blur_defocus": Kind(
        "Defocus", tuple({"radius": (r, r), "alias_blur": (a, a)} for r, a in ((2, 0.1), (4, 0.2), (6, 0.3))), (401, 402, 403)
    ),
    "jpeg_compression": Kind("ImageCompression", tuple({"quality_range": (q, q)} for q in (40, 25, 12)), (501, 502, 503)),
    "haze_fog": Kind("RandomFog", tuple({"fog_coef_range": (f, f), "alpha_coef": 0.1} for f in (0.3, 0.5, 0.7)), (601, 602, 603)),
    "rain_streaks": Kind(
        "RandomRain",
        tuple({"rain_type": t, "brightness_coefficient": 0.9, "blur_value": 3} for t in ("drizzle", "default", "heavy")),
        (701, 702, 703),
    ),
    "lowlight_gamma": Kind("RandomGamma", tuple({"gamma_limit": (g, g)} for g in (180, 230, 300)), (801, 802, 803)),
    "lowlight_contrast": Kind(
        "RandomBrightnessContrast",
        tuple({"brightness_limit": (b, b), "contrast_limit": (c, c)} for b, c in ((-0.04, -0.4), (-0.06, -0.5), (-0.08, -0.6))),
        (901, 902, 903),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """Recipe of one pair: the center of a photograph, ``size`` pixels, degraded by a transform with ``parameters`` and ``seed``."""

    kind: str
    transform: str
    parameters: dict
    photograph: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the pair's files."""
        return f"{Path(self.photograph).stem}-{self.seed}.png"


def recipes(photographs: tuple[str, ...], size: int) -> list[Recipe]:
    """Plan every photograph in every kind with each of its parameters; a photograph's place in the list is added to the seed."""
    return [
        Recipe(name, kind.transform, parameters, photograph, size, 1000 * seed + place)
        for name, kind in KINDS.items()
        for place, photograph in enumerate(photographs)
        for parameters, seed in zip(kind.parameters, kind.seeds)
    ]


def digest(planned: list[Recipe]) -> str:
    """Return the SHA-256 of recipes in their order."""
    return hashlib.sha256(json.dumps([dataclasses.asdict(recipe) for recipe in planned]).encode()).hexdigest()


def degrade(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Degrade a uint8 RGB image ``[H, W, 3]`` by a recipe.

    Raises:
        ModuleNotFoundError: albumentations is not installed.
        ValueError: Another version is installed, whose formulas may differ.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it looks for newer versions over the network
    import albumentations

    if albumentations.__version__ != VERSION:
        raise ValueError(f"albumentations is {albumentations.__version__}; these sets are defined by {VERSION}: pip install --no-deps it.")
    transform = getattr(albumentations, recipe.transform)(**recipe.parameters, p=1.0)
    return albumentations.Compose([transform], seed=recipe.seed)(image=image)["image"]


def write(folder: Path, planned: list[Recipe], photographs: Path | None = None) -> None:
    """Write the pairs of recipes and, last, ``recipes.json``.

    Args:
        folder: Gets a folder for each kind.
        planned: Recipes of the pairs.
        photographs: Folder of the photographs; None for scikit-image's.
    """
    for recipe in planned:
        name = recipe.photograph
        if photographs is None:
            clean = photograph_crop(name, recipe.size)
        else:
            clean = middle_crop(read_photograph(photographs / name), recipe.size, name)
        for side, image in (("lq", degrade(clean, recipe)), ("gt", clean)):
            path = folder / recipe.kind / side / recipe.name
            path.parent.mkdir(parents=True, exist_ok=True)
            done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
            assert done, "OpenCV could not encode a PNG"
            with replace_when_whole(path) as temporary:
                temporary.write_bytes(data.tobytes())
    record = {"albumentations": VERSION, "sha256": digest(planned), "recipes": [dataclasses.asdict(recipe) for recipe in planned]}
    with replace_when_whole(folder / "recipes.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Write the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--half", choices=[*HALVES, "both"], default="both", help="half of the photographs that scikit-image installs")
    parser.add_argument("--photographs", type=Path, help="use this folder's photographs instead, in FOLDER/photographs")
    parser.add_argument("--split", type=Path, help="text file of the names of --photographs to use, one a line")
    parser.add_argument("--size", type=int, default=256, help="side of the pairs in pixels")
    arguments = parser.parse_args()
    if arguments.photographs is not None:
        names = tuple(list_photographs(arguments.photographs, size=arguments.size, split=arguments.split, options=("split", "size")))
        sets = {"photographs": names}
    else:
        sets = {half: names for half, names in HALVES.items() if arguments.half in (half, "both")}
    for name, photographs in sets.items():
        planned = recipes(photographs, arguments.size)
        write(arguments.folder / name, planned, arguments.photographs)
        print(f"{arguments.folder / name}: {len(planned)} pairs, recipes {digest(planned)}")


if __name__ == "__main__":
    main()
