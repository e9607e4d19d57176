"""``mimdit shards foundir|pairs|finalise|verify``: from image pairs as they are found to shards, and whether the shards are sound."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.conversion.finalize import finalise as finalise_plan
from datamodules.conversion.options import Options
from datamodules.conversion.plan import make_plan
from datamodules.conversion.plan_file import PLAN_NAME, StoredPlan
from datamodules.conversion.prepare import REJECTED_NAME, changed_versions, existing_plan, prepare
from datamodules.conversion.preview import describe_counts, describe_dry_run, describe_groups
from datamodules.conversion.run import WHOLE, Part, write_shards
from datamodules.conversion.verify import read_index
from datamodules.conversion.verify import verify as verify_shards
from datamodules.sources.listing import Listing, list_foundir, list_pairs
from mimdit.commands.shards import describe

_MOST_TOLD = 10
"""Problems of one shard that are printed."""


def foundir(
    src: str,
    dst: str,
    *,
    groups: list[str] | None = None,
    limit: float | None = None,
    seed: int = 0,
    shard_size: int = 256,
    tile: int | None = None,
    tile_codec: str = "png",
    check: str = "decode",
    workers: int | None = None,
    part: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Convert FoundIR, as it is released or unpacked, to shards.

    Finds out by looking whether src holds the released archives (read in place, never unpacked), folders <group>/{GT,LQ} or
    {GT,LQ}/<group>, or is a .txt list of "GT, LQ" lines. The images keep their bytes. A call that was interrupted, or killed, is continued
    by the same call.

    Args:
        src: Folder of the archives or of the unpacked groups, or a .txt list.
        dst: Folder to write the shards to.
        groups: Groups to take, such as '[08Haze,13Rain_Haze]'; null is all.
        limit: Below 1 that fraction of each group's pairs, from 1 on that many pairs of each group; null is all.
        seed: Seed of the order inside each group.
        shard_size: MiB a shard, about.
        tile: Cut both images into tiles of so many pixels; null keeps the images as they are.
        tile_codec: Lossless format of the tiles: png (decodes fast) or webp (about half as large, takes ten times as long to write).
        check: decode reads every image to its last pixel, header only its size.
        workers: Processes that work in parallel; null is one for each core.
        part: i/n writes only the i-th of n parts, for job arrays; `mimdit shards finalise` closes.
        dry_run: Only print what would be done: groups, disk, an estimate of the time.
        overwrite: Remove what dst holds of another conversion.

    Raises:
        ValueError: An option is out of its range, dst holds another conversion, the source is not what it should be, or the disk is full.
    """
    source = Path(src).resolve()
    options = Options(limit=limit, seed=seed, shard_size=shard_size, tile=tile, tile_codec=tile_codec, check=check)
    named = {"command": "foundir", "src": str(source), "groups": sorted(set(groups)) if groups else None}
    run = {"workers": workers, "part": part, "dry_run": dry_run, "overwrite": overwrite}
    _convert(dst, named, options, lambda: list_foundir(source, groups=groups), **run)


def pairs(
    dst: str,
    *,
    lq: str,
    gt: str,
    group: str | None = None,
    limit: float | None = None,
    seed: int = 0,
    shard_size: int = 256,
    tile: int | None = None,
    tile_codec: str = "png",
    check: str = "decode",
    workers: int | None = None,
    part: str | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Convert two folders of paired images to shards of one group.

    Images are pairs when they have the same path below their folders, whatever follows the last dot.

    Args:
        dst: Folder to write the shards to.
        lq: Folder of the degraded images.
        gt: Folder of their ground truths.
        group: Group of the pairs; tells their degradations, such as 09Lowlight_Haze. null is the name of the folder that holds lq and gt.
        limit: Below 1 that fraction of the pairs, from 1 on that many pairs; null is all.
        seed: Seed of the order.
        shard_size: MiB a shard, about.
        tile: Cut both images into tiles of so many pixels; null keeps the images as they are.
        tile_codec: Lossless format of the tiles: png (decodes fast) or webp (about half as large, takes ten times as long to write).
        check: decode reads every image to its last pixel, header only its size.
        workers: Processes that work in parallel; null is one for each core.
        part: i/n writes only the i-th of n parts, for job arrays; `mimdit shards finalise` closes.
        dry_run: Only print what would be done: pairs, disk, an estimate of the time.
        overwrite: Remove what dst holds of another conversion.

    Raises:
        ValueError: An option is out of its range, dst holds another conversion, the folders hold no pairs, or the disk is full.
    """
    folders = {"lq": Path(lq).resolve(), "gt": Path(gt).resolve()}
    if group is None:
        if folders["lq"].parent != folders["gt"].parent:
            raise ValueError(f"{lq} and {gt} lie in different folders, which do not tell a group. Give --group, such as 09Lowlight_Haze.")
        group = folders["lq"].parent.name
    options = Options(limit=limit, seed=seed, shard_size=shard_size, tile=tile, tile_codec=tile_codec, check=check)
    named = {"command": "pairs", **{name: str(folder) for name, folder in folders.items()}, "group": group}
    run = {"workers": workers, "part": part, "dry_run": dry_run, "overwrite": overwrite}
    _convert(dst, named, options, lambda: list_pairs(folders["lq"], folders["gt"], group=group), **run)


def finalise(dst: str) -> None:
    """Close a conversion that was written in parts: index and list of rejected pairs.

    Args:
        dst: Folder of the shards.

    Raises:
        ValueError: Shards are missing; names the command that writes them.
    """
    _finalise(StoredPlan.load(Path(dst).resolve() / PLAN_NAME))


def verify(dst: str, *, decode: bool = False, workers: int | None = None) -> None:
    """Read all shards again and compare every byte with the index, the sidecars and the samples' checksums.

    Args:
        dst: A finished folder of shards.
        decode: Also decode every image.
        workers: Processes that work in parallel; null is one for each core.

    Raises:
        ValueError: The index is missing, or a shard is not what it should be.
    """
    index = read_index(Path(dst))
    found = verify_shards(index, decode=decode, workers=_workers(workers))
    bad = 0
    for entry, problems in tqdm(found, total=len(index.shards), unit="shard", desc="verify"):
        bad += bool(problems)
        for problem in problems[:_MOST_TOLD]:
            tqdm.write(f"{entry.name}: {problem}")
        if len(problems) > _MOST_TOLD:
            tqdm.write(f"{entry.name}: and {len(problems) - _MOST_TOLD} more")
    if bad:
        raise ValueError(
            f"{bad} of the {len(index.shards)} shards of {dst} are damaged. Copy them again; or remove them, tar and .json, and give the "
            "command that wrote them again."
        )
    print(f"{dst}: {len(index.shards)} shards with {index.samples} samples are sound.")


def _convert(
    dst: str,
    source: dict[str, Any],
    options: Options,
    list_source: Callable[[], Listing],
    *,
    workers: int | None,
    part: str | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Plan, or only tell the plan; write what is missing; close."""
    destination = Path(dst).resolve()
    chosen = WHOLE if part is None else Part.parse(part)
    count = _workers(workers)
    if part is not None and overwrite:
        raise ValueError(f"overwrite=true with part={part} would remove what other parts have written. Remove {destination} first instead.")
    if dry_run:
        plan = existing_plan(destination, source, options) or make_plan(list_source(), options, source)
        print(describe_dry_run(plan, options, destination, count))
        return
    stored = prepare(destination, source, options, list_source, overwrite=overwrite)
    print(describe_groups(stored.header))
    if changed := changed_versions(stored):
        print(f"note: the plan was made with other versions ({changed}); what is written now may differ from what they would write")
    write_shards(stored, part=chosen, workers=count)
    if part is None:
        _finalise(stored)
    else:
        print(f"Part {part} is done. When all are, close with `mimdit shards finalise {destination}`.")


def _finalise(plan: StoredPlan) -> None:
    index, rejected = finalise_plan(plan)
    print(describe(index))
    counts = Counter(reject.group for reject in rejected)
    print(f"rejected pairs: {describe_counts(counts)}" + (f", see {plan.folder / REJECTED_NAME}" if rejected else ""))


def _workers(workers: int | None) -> int:
    """The number of processes asked for, or that of the cores this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0))
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1.")
    return workers
