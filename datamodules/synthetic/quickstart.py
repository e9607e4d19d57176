"""The quickstart's shards: generated scenes and crops of a folder's photographs to train on, other photographs to validate and test on.

Every sample is drawn from (seed, number of the sample), and the content of every shard is planned before any is written. So the bytes
depend neither on the number of processes nor on interruptions.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from datamodules.degradations import CLEAN, GROUPS, atoms_of_group, degrade
from datamodules.degradations.codecs import compress_by
from datamodules.rng import named_rng
from datamodules.shards import ShardIndex, Sidecar, shard_name, write_shard
from datamodules.shards.process_pool import in_processes
from datamodules.synthetic.photographs import LEAST_DETAIL, TEST, VALIDATION, photograph_crop, random_crop, read_photograph
from datamodules.synthetic.scenes import make_scene

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class Recipe:
    """Parameters of one sample: a clean image of ``size`` pixels, degraded by ``group`` with ``formulas``.

    ``source`` is ``"scene"`` for a scene from ``seed``, ``"folder"`` for a crop of the file ``photograph`` of the training photographs
    (with at least ``least_detail``; with another tone if ``retoned``), or the name of a photograph of scikit-image, whose middle is used.
    With a ``codec`` the image is only compressed, at ``quality``.
    """

    key: str
    group: str
    source: str
    size: int
    severity: float
    seed: int
    photograph: str = ""
    retoned: bool = False
    formulas: str = "original"
    codec: str = ""
    quality: int = 0
    least_detail: float = LEAST_DETAIL

    def fields(self) -> dict[str, Any]:
        """Return the fields stored with the pixels, except later-added ones at their defaults, so that older bytes stay the same."""
        late = {each.name: each.default for each in dataclasses.fields(self) if each.default is not dataclasses.MISSING}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in late or value != late[name]}


@dataclass(frozen=True)
class Photographs:
    """Training photographs: folder, file names in it, fraction of samples made from them, and of those the fraction retoned.

    ``clean_detail`` is the least `detail` of crops that stay undegraded.
    """

    folder: Path
    names: tuple[str, ...]
    share: float = 0.5
    retone: float = 0.5
    clean_detail: float = LEAST_DETAIL


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: its path, its samples in stored order and the folder of the photographs that they name."""

    path: Path
    group: str
    recipes: tuple[Recipe, ...]
    photographs: Path | None = None


def train_recipes(
    images: int,
    *,
    size: int,
    clean: float,
    seed: int,
    min_severity: float = 0.1,
    max_severity: float = 1.0,
    photographs: Photographs | None = None,
    formulas: str = "original",
    groups: list[str] | None = None,
) -> list[Recipe]:
    """Plan the training samples: a fraction ``clean`` undegraded, the rest over ``groups``, those of one atom twice as likely.

    ``groups`` are degraded groups of FoundIR's, and mixtures that it has not; None is all of FoundIR's.

    Undegraded images teach the model to leave clean images unchanged. Severities are uniform in ``min_severity``..``max_severity``. A
    fraction of the samples is made from ``photographs`` instead of scenes, with the same groups, severities and seeds. Not in the paper.
    """
    degraded = [group for group in GROUPS if group != CLEAN and (groups is None or group in groups)]
    degraded += [group for group in groups or () if group not in GROUPS]
    odds = np.array([2.0 if len(atoms_of_group(group)) == 1 else 1.0 for group in degraded])
    recipes = []
    for number in range(images):
        rng = named_rng(seed, "train", number)
        group = CLEAN if rng.random() < clean else degraded[rng.choice(len(degraded), p=odds / odds.sum())]
        severity = 0.0 if group == CLEAN else round(float(rng.uniform(min_severity, max_severity)), 4)
        recipe = Recipe(f"{group}/{number:07d}", group, "scene", size, severity, int(rng.integers(2**31)), formulas=formulas)
        recipes.append(recipe if photographs is None else _of_photograph(recipe, photographs, named_rng(seed, "crop", number)))
    return recipes


def _of_photograph(recipe: Recipe, photographs: Photographs, rng: np.random.Generator) -> Recipe:
    """Turn a fraction of the scenes into crops; the order of random numbers does not depend on the fractions."""
    crop, name, retoned = rng.random() < photographs.share, photographs.names[rng.integers(len(photographs.names))], rng.random()
    if not crop:
        return recipe
    least_detail = photographs.clean_detail if recipe.group == CLEAN else LEAST_DETAIL
    return dataclasses.replace(
        recipe, source="folder", photograph=name, retoned=bool(retoned < photographs.retone), least_detail=least_detail
    )


def photograph_recipes(names: tuple[str, ...], *, size: int, draws: int, severities: list[float], seed: int) -> list[Recipe]:
    """Plan evaluation samples: every photograph in every group, ``draws`` times, each with another seed and the next severity."""
    recipes = []
    for group in GROUPS:
        for place, name in enumerate(names):
            for draw in range(draws):
                severity = 0.0 if group == CLEAN else severities[(place + draw) % len(severities)]
                key = f"{group}/{name}-draw{draw}-severity{round(100 * severity):03d}"
                drawn = int(named_rng(seed, "photograph", name, group, draw).integers(2**31))
                recipes.append(Recipe(key, group, name, size, severity, drawn))
    return recipes


def plan_shards(folder: Path, recipes: list[Recipe], shard_size: int, photographs: Path | None = None) -> list[ShardPlan]:
    """Cut the samples of each group into shards of at most ``shard_size`` samples; ``photographs`` is the folder of those they name."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.group, []).append(recipe)
    return [
        ShardPlan(folder / shard_name(group, number), group, tuple(listed[start : start + shard_size]), photographs)
        for group, listed in groups.items()
        for number, start in enumerate(range(0, len(listed), shard_size))
    ]


def write_folders(
    folders: dict[Path, list[Recipe]], options: dict[str, Any], *, shard_size: int, workers: int, photographs: Path | None = None
) -> None:
    """Write every folder's missing shards, then its index.

    Args:
        folders: The samples of each folder.
        options: Options of the samples; recorded in each index.
        shard_size: Samples per shard.
        workers: Processes, each with one thread; 1 uses this process.
        photographs: Folder of the photographs that samples name.
    """
    plans = {folder: plan_shards(folder, recipes, shard_size, photographs) for folder, recipes in folders.items()}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".*.tmp"):  # left behind by a killed process
            stale.unlink()
    todo = [plan for listed in plans.values() for plan in listed if not _is_done(plan)]
    total = sum(len(recipes) for recipes in folders.values())
    with tqdm(total=total, unit="pair", desc="shards", initial=total - sum(len(plan.recipes) for plan in todo)) as bar:
        for plan in _written(todo, workers):
            bar.update(len(plan.recipes))
    for folder, listed in plans.items():
        entries = sorted((Sidecar.load(plan.path).entry for plan in listed), key=lambda entry: entry.name)
        ShardIndex(folder, tuple(entries), options).save()


def _written(plans: list[ShardPlan], workers: int) -> Iterator[ShardPlan]:
    """Write shards in a pool of processes, the largest first, and yield each when it is done."""
    plans = sorted(plans, key=lambda plan: (-len(plan.recipes) * plan.recipes[0].size ** 2, plan.path))
    for plan, _ in in_processes(write_plan, plans, workers):
        yield plan


def _is_done(plan: ShardPlan) -> bool:
    """Return true if a shard's sidecar exists and lists the planned samples, and its tar has the recorded size."""
    if not plan.path.with_suffix(".json").is_file() or not plan.path.is_file():
        return False
    sidecar = Sidecar.load(plan.path)
    planned = [recipe.key for recipe in plan.recipes]
    return plan.path.stat().st_size == sidecar.entry.bytes and [span.key for span in sidecar.spans] == planned


def write_plan(plan: ShardPlan) -> None:
    """Make the samples of one shard and write it."""
    write_shard(plan.path, plan.group, (make_sample(recipe, plan.photographs) for recipe in plan.recipes))


def make_sample(recipe: Recipe, photographs: Path | None = None) -> dict[str, Any]:
    """Make a stored sample: clean image and degraded image as PNG, and their description.

    Args:
        recipe: Parameters of the sample.
        photographs: Folder of the photograph in the recipe, if any.

    Raises:
        ValueError: The photograph cannot be read or is too small.
    """
    clean = _clean_image(recipe, photographs)
    if recipe.group == CLEAN:
        degraded = clean
    elif recipe.codec:
        degraded = np.round(compress_by(clean.astype(np.float32) / 255, recipe.codec, recipe.quality) * 255).astype(np.uint8)
    else:
        chosen = {} if recipe.formulas == "original" else {"formulas": recipe.formulas}
        floating = degrade(clean.astype(np.float32) / 255, recipe.group, severity=recipe.severity, seed=recipe.seed, **chosen)
        degraded = np.round(floating * 255).astype(np.uint8)
    fields = {**recipe.fields(), "atoms": list(atoms_of_group(recipe.group)), "width": clean.shape[1], "height": clean.shape[0]}
    del fields["key"], fields["size"]
    return {"__key__": recipe.key, "lq.png": _encode(degraded), "gt.png": _encode(clean), "json": fields}


def _clean_image(recipe: Recipe, photographs: Path | None) -> np.ndarray:
    """Make a recipe's clean image, uint8 RGB ``[size, size, 3]``."""
    if recipe.source == "scene":
        return make_scene(recipe.size, seed=recipe.seed)
    if recipe.source == "folder":
        assert photographs is not None, "a recipe with a file name needs the folder"
        photograph = read_photograph(photographs / recipe.photograph)
        return random_crop(photograph, recipe.size, seed=recipe.seed, retoned=recipe.retoned, least_detail=recipe.least_detail)
    return photograph_crop(recipe.source, recipe.size)


def _encode(image: np.ndarray) -> bytes:
    """Encode a uint8 RGB image ``[H, W, 3]`` as PNG, lightly compressed: it is read far more often than it is copied."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG)
    assert done
    return data.tobytes()


def quickstart_folders(
    destination: Path,
    *,
    train_images: int,
    size: int,
    clean: float,
    photograph_size: int,
    draws: int,
    severities: list[float],
    seed: int,
    min_severity: float = 0.1,
    max_severity: float = 1.0,
    train_photographs: Photographs | None = None,
    formulas: str = "original",
    groups: list[str] | None = None,
) -> dict[Path, list[Recipe]]:
    """Plan all samples of the quickstart: folders ``train``, ``validation`` (each photograph and group once) and ``test``.

    ``train_photographs``, ``formulas``, ``groups`` and the severity limits apply to ``train`` only: validation and test stay comparable.
    """
    chosen = {"photographs": train_photographs, "formulas": formulas, "groups": groups}
    chosen |= {"min_severity": min_severity, "max_severity": max_severity}
    photographs = {"size": photograph_size, "severities": severities, "seed": seed}
    return {
        destination / "train": train_recipes(train_images, size=size, clean=clean, seed=seed, **chosen),
        destination / "validation": photograph_recipes(VALIDATION, draws=1, **photographs),
        destination / "test": photograph_recipes(TEST, draws=draws, **photographs),
    }
