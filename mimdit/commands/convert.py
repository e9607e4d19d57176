"""``mimdit shards foundir|pairs|finalize|verify``: convert image pairs to shards, and check shards."""

import inspect
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.conversion.options import Options
from datamodules.conversion.plan import changed_versions, existing_plan, make_plan, prepare
from datamodules.conversion.plan_file import PLAN_NAME, StoredPlan
from datamodules.conversion.preview import describe_counts, describe_dry_run, describe_groups
from datamodules.conversion.verify import read_index
from datamodules.conversion.verify import verify as verify_shards
from datamodules.conversion.write import finalize as finalize_plan
from datamodules.conversion.write import write_shards
from datamodules.shards.folder import REJECTED_NAME, WHOLE, Part
from datamodules.sources.listing import Listing, list_pair_folders, list_pairs
from mimdit.commands.shards import describe

_MOST_SHOWN = 10
"""Maximum number of problems printed per shard."""


def _convert(
    dst: str,
    source: dict[str, Any],
    list_source: Callable[[], Listing],
    *,
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
    """Plan a conversion or only print the plan; write what is missing; close the folder.

    Args:
        dst: Folder to write the shards to.
        source: The source as the user named it.
        list_source: Function that lists the source.
        limit: Below 1: fraction of each group's pairs; 1 or more: number of pairs of each group; null is all.
        seed: Seed of the order inside each group.
        shard_size: Approximate size of a shard in MiB.
        tile: Cut both images into tiles with this side in pixels; null keeps the images as they are.
        tile_codec: Lossless format of the tiles: png (decodes fast) or webp (about half the size, ten times as long to write).
        check: decode reads every image to its last pixel, header only its size.
        workers: Processes that work in parallel; null is one for each core.
        part: i/n writes only the i-th of n parts, for job arrays; `mimdit shards finalize` closes the folder.
        dry_run: If true, only print the plan: groups, disk space, an estimate of the time.
        overwrite: If true, remove another conversion from dst.
    """
    options = Options(limit=limit, seed=seed, shard_size=shard_size, tile=tile, tile_codec=tile_codec, check=check)
    destination = Path(dst).resolve()
    chosen = WHOLE if part is None else Part.parse(part)
    count = _workers(workers)
    if part is not None and overwrite:
        raise ValueError(f"overwrite=true with part={part} would remove the shards of other parts. Remove {destination} first instead.")
    if dry_run:
        plan = existing_plan(destination, source, options) or make_plan(list_source(), options, source)
        print(describe_dry_run(plan, options, destination, count))
        return
    stored = prepare(destination, source, options, list_source, overwrite=overwrite)
    print(describe_groups(stored.header))
    if changed := changed_versions(stored):
        print(f"note: the plan was made with other versions ({changed}); the remaining shards may differ from what those would write")
    write_shards(stored, part=chosen, workers=count)
    if part is None:
        _finalize(stored)
    else:
        print(f"Part {part} is done. When all are, close with `mimdit shards finalize {destination}`.")


def _with_conversion_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Replace a verb's ``**options`` by the options of `_convert`, in its signature and in the ``Args`` of its docstring."""
    shared = [each for each in inspect.signature(_convert).parameters.values() if each.default is not inspect.Parameter.empty]
    own = [each for each in inspect.signature(verb).parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    verb.__signature__ = inspect.Signature([*own, *shared], return_annotation=None)
    verb.__annotations__ = {each.name: each.annotation for each in (*own, *shared)} | {"return": None}
    lines = (inspect.getdoc(_convert) or "").splitlines()
    start = next(place for place, line in enumerate(lines) if line.strip().startswith(f"{shared[0].name}: "))
    verb.__doc__ = (inspect.getdoc(verb) or "").replace("    **options: Options of the conversion.", "\n".join(lines[start:]))
    return verb


@_with_conversion_options
def foundir(src: str, dst: str, *, groups: list[str] | None = None, **options: Any) -> None:
    """Convert FoundIR, as released or unpacked, to shards.

    Detects whether src holds the released archives (read in place, never unpacked) or folders <group>/{GT,LQ} or {GT,LQ}/<group>, or is a
    .txt list of "GT, LQ" lines. The images keep their bytes. Repeating the call continues an interrupted or killed conversion.

    Args:
        src: Folder of the archives or of the unpacked groups, or a .txt list.
        dst: Folder to write the shards to.
        groups: Groups to convert, such as '[08Haze,13Rain_Haze]'; null is all.
        **options: Options of the conversion.

    Raises:
        ValueError: An option is out of range, dst holds another conversion, the source is invalid, or the disk is full.
    """
    source = Path(src).resolve()
    named = {"command": "foundir", "src": str(source), "groups": sorted(set(groups)) if groups else None}
    _convert(dst, named, lambda: list_pairs(source, groups=groups), **options)


@_with_conversion_options
def pairs(dst: str, *, lq: str, gt: str, group: str | None = None, **options: Any) -> None:
    """Convert two folders of paired images to shards of one group.

    Two images are a pair if they have the same path below their folders, apart from the text after the last dot.

    Args:
        dst: Folder to write the shards to.
        lq: Folder of the degraded images.
        gt: Folder of their ground truths.
        group: Group of the pairs, which names their degradations, such as 09Lowlight_Haze; null is the name of the folder of lq and gt.
        **options: Options of the conversion.

    Raises:
        ValueError: An option is out of range, dst holds another conversion, the folders hold no pairs, or the disk is full.
    """
    folders = {"lq": Path(lq).resolve(), "gt": Path(gt).resolve()}
    if group is None:
        if folders["lq"].parent != folders["gt"].parent:
            raise ValueError(f"{lq} and {gt} are in different folders, which do not name a group. Give --group, such as 09Lowlight_Haze.")
        group = folders["lq"].parent.name
    named = {"command": "pairs", **{name: str(folder) for name, folder in folders.items()}, "group": group}
    _convert(dst, named, lambda: list_pair_folders(folders["lq"], folders["gt"], group=group), **options)


def finalize(dst: str) -> None:
    """Close a conversion that was written in parts: write the index and the list of rejected pairs.

    Args:
        dst: Folder of the shards.

    Raises:
        ValueError: Shards are missing; the message names the command that writes them.
    """
    _finalize(StoredPlan.load(Path(dst).resolve() / PLAN_NAME))


finalise = finalize  # codespell:ignore finalise
"""Earlier name of `finalize`."""


def verify(dst: str, *, decode: bool = False, workers: int | None = None) -> None:
    """Read all shards again and compare every byte with the index, the sidecars and the samples' checksums.

    Args:
        dst: A finished folder of shards.
        decode: If true, also decode every image.
        workers: Processes that work in parallel; null is one for each core.

    Raises:
        ValueError: The index is missing, or a shard is damaged.
    """
    index = read_index(Path(dst))
    found = verify_shards(index, decode=decode, workers=_workers(workers))
    bad = 0
    for entry, problems in tqdm(found, total=len(index.shards), unit="shard", desc="verify"):
        bad += bool(problems)
        for problem in problems[:_MOST_SHOWN]:
            tqdm.write(f"{entry.name}: {problem}")
        if len(problems) > _MOST_SHOWN:
            tqdm.write(f"{entry.name}: and {len(problems) - _MOST_SHOWN} more")
    if bad:
        raise ValueError(
            f"{bad} of the {len(index.shards)} shards of {dst} are damaged. Copy them again; or remove them, tar and .json, and repeat the "
            "command that wrote them."
        )
    print(f"{dst}: {len(index.shards)} shards with {index.samples} samples are sound.")


def _finalize(plan: StoredPlan) -> None:
    index, rejected = finalize_plan(plan)
    print(describe(index))
    counts = Counter(reject.group for reject in rejected)
    print(f"rejected pairs: {describe_counts(counts)}" + (f", see {plan.folder / REJECTED_NAME}" if rejected else ""))


def _workers(workers: int | None) -> int:
    """Return the number of processes, by default the number of cores that this process may use."""
    if workers is None:
        return len(os.sched_getaffinity(0))
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1.")
    return workers
