"""The quickstart's shards: made scenes to train on, photographs to validate and test on.

Every sample is drawn from (seed, its number) and every shard's content is planned before any is written, so the bytes depend neither on
the number of processes nor on interruptions.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from datamodules.degradations import CLEAN, GROUPS, degrade
from datamodules.made.photographs import TEST, VALIDATION, photograph_crop
from datamodules.made.scenes import make_scene
from datamodules.seeding import named_rng
from datamodules.shards import ShardIndex, Sidecar, shard_name, write_shard
from datamodules.shards.pool import in_processes

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class Recipe:
    """How one sample is made: a scene of ``size`` pixels from ``seed``, or the photograph ``source``, degraded as ``group`` says."""

    key: str
    group: str
    source: str
    size: int
    severity: float
    seed: int


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: its path and its samples in stored order."""

    path: Path
    group: str
    recipes: tuple[Recipe, ...]


def train_recipes(images: int, *, size: int, clean: float, seed: int, max_severity: float = 1.0) -> list[Recipe]:
    """Plan the training samples: a share ``clean`` undegraded, the rest over FoundIR's groups, single atoms twice as often as coupled.

    Undegraded images teach the model to leave alone what needs nothing. Severities are uniform in
    0.1..``max_severity``. (ours)
    """
    degraded = [group for group in GROUPS if group != CLEAN]
    odds = np.array([2.0 if len(GROUPS[group]) == 1 else 1.0 for group in degraded])
    recipes = []
    for number in range(images):
        rng = named_rng(seed, "train", number)
        group = CLEAN if rng.random() < clean else degraded[rng.choice(len(degraded), p=odds / odds.sum())]
        severity = 0.0 if group == CLEAN else round(float(rng.uniform(0.1, max_severity)), 4)
        recipes.append(Recipe(f"{group}/{number:07d}", group, "scene", size, severity, int(rng.integers(2**31))))
    return recipes


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


def plan_shards(folder: Path, recipes: list[Recipe], shard_size: int) -> list[ShardPlan]:
    """Cut the samples of each group into shards of at most ``shard_size``."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.group, []).append(recipe)
    return [
        ShardPlan(folder / shard_name(group, number), group, tuple(listed[start : start + shard_size]))
        for group, listed in groups.items()
        for number, start in enumerate(range(0, len(listed), shard_size))
    ]


def write_folders(folders: dict[Path, list[Recipe]], options: dict[str, Any], *, shard_size: int, workers: int) -> None:
    """Write every folder's shards that are not there yet, then its index.

    Args:
        folders: The samples of each folder.
        options: What the samples were made with; recorded in each index.
        shard_size: Samples a shard.
        workers: Processes, each with one thread; 1 works in this process.
    """
    plans = {folder: plan_shards(folder, recipes, shard_size) for folder, recipes in folders.items()}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".*.tmp"):  # left by a process that was killed
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
    """A shard is done when its sidecar exists, lists the planned samples, and the tar has the size it says."""
    if not plan.path.with_suffix(".json").is_file() or not plan.path.is_file():
        return False
    sidecar = Sidecar.load(plan.path)
    planned = [recipe.key for recipe in plan.recipes]
    return plan.path.stat().st_size == sidecar.entry.bytes and [span.key for span in sidecar.spans] == planned


def write_plan(plan: ShardPlan) -> None:
    """Make the samples of one shard and write it."""
    write_shard(plan.path, plan.group, map(_make_sample, plan.recipes))


def _make_sample(recipe: Recipe) -> dict[str, Any]:
    """Make a stored sample: clean image, degraded image, both as PNG, and what they are."""
    scene = recipe.source == "scene"
    clean = make_scene(recipe.size, seed=recipe.seed) if scene else photograph_crop(recipe.source, recipe.size)
    if recipe.group == CLEAN:
        degraded = clean
    else:
        floating = degrade(clean.astype(np.float32) / 255, recipe.group, severity=recipe.severity, seed=recipe.seed)
        degraded = np.round(floating * 255).astype(np.uint8)
    fields = {**dataclasses.asdict(recipe), "atoms": list(GROUPS[recipe.group]), "width": clean.shape[1], "height": clean.shape[0]}
    del fields["key"], fields["size"]
    return {"__key__": recipe.key, "lq.png": _encode(degraded), "gt.png": _encode(clean), "json": fields}


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
    max_severity: float = 1.0,
) -> dict[Path, list[Recipe]]:
    """Plan all samples of the quickstart: folders ``train``, ``validation`` (one draw of each photograph and group) and ``test``."""
    photographs = {"size": photograph_size, "severities": severities, "seed": seed}
    return {
        destination / "train": train_recipes(train_images, size=size, clean=clean, seed=seed, max_severity=max_severity),
        destination / "validation": photograph_recipes(VALIDATION, draws=1, **photographs),
        destination / "test": photograph_recipes(TEST, draws=draws, **photographs),
    }
