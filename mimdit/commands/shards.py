"""``mimdit shards …``: write folders of shards and inspect them."""

import json
import math
from pathlib import Path
from typing import Any, Literal

from datamodules.conversion.plan_file import PLAN_NAME as CONVERSION_PLAN
from datamodules.degradations import CLEAN, FORMULA_SETS, GROUPS, is_new_mixture
from datamodules.degradations.codecs import CODECS
from datamodules.shards import INDEX_NAME, SCHEMA, ShardError, ShardIndex
from datamodules.shards.folder import clear_folder, shards_in
from datamodules.shards.joining import join_folders
from datamodules.shards.latents import LatentRecord
from datamodules.synthetic.codec_set import codec_recipes
from datamodules.synthetic.photographs import LEAST_DETAIL, list_photographs, photographs_digest
from datamodules.synthetic.quickstart import Photographs, quickstart_folders, write_folders
from mimdit.core.files import replace_when_whole

_PLAN = "plan.json"


def quickstart(
    dst: str,
    *,
    train_images: int = 3000,
    size: int = 128,
    clean: float = 0.3,
    photograph_size: int = 256,
    draws: int = 3,
    severities: list[float] | None = None,
    min_severity: float = 0.1,
    max_severity: float = 1.0,
    photographs: str | None = None,
    photograph_share: float = 0.5,
    retone: float = 0.5,
    clean_detail: float = 0.02,
    split: str | None = None,
    groups: list[str] | None = None,
    formulas: Literal["original", "varied", "codecs", "cameras"] = "original",
    shard_size: int = 256,
    workers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the quickstart's data: generated training scenes, degraded photographs for validation and test.

    Existing shards are kept, so repeating the call continues an interrupted one. The bytes do not depend on the number of workers.

    Args:
        dst: Folder to write; gets train/, validation/ and test/.
        train_images: Number of training images.
        size: Side of the training images in pixels.
        clean: Fraction of training images that stay undegraded, 0..1.
        photograph_size: Side of the photographs for validation and test in pixels.
        draws: Degradations of each test photograph in each group, each with its own seed and the next severity.
        severities: Severities of the degraded photographs, each in 0..1; null is 0.3, 0.6 and 0.9.
        min_severity: Smallest severity of the training images, 0..1.
        max_severity: Largest severity of the training images, 0.1..1; a value below the photographs' severities tests extrapolation.
        photographs: Folder of photographs whose sharp crops are added to the training images; null is none.
        photograph_share: Fraction of the training images that are crops of photographs, 0..1; 1 makes no scenes.
        retone: Fraction of the crops whose two images both get another natural tone, 0..1.
        clean_detail: Least detail of the crops that stay undegraded, as RMS of the lightness gradient per pixel, at least 0; fog, night
            and soft backgrounds are mostly below the 0.02 that holds for all other crops.
        split: Text file with the names of the photographs to use, one per line; null is all of the folder.
        groups: Degraded groups of the training images, such as 05Noise, or mixtures that FoundIR has not, such as Haze_Noise; null is
            all of FoundIR's. Single degradations come twice as often.
        formulas: Formulas of the training images' degradations: one of each kind, several, several with codecs other than JPEG and WebP, or
            several with noise as cameras leave it in their files; validation and test always use the original ones.
        shard_size: Maximum number of pairs per shard.
        workers: Processes that work in parallel.
        seed: Seed of all random choices.
        overwrite: If true, replace shards in dst that were made with other options.

    Raises:
        ValueError: An option is out of range, a photograph is unreadable or too small, or dst holds shards made with other options.
    """
    severities = [0.3, 0.6, 0.9] if severities is None else list(severities)
    samples = {"train_images": train_images, "size": size, "clean": clean, "photograph_size": photograph_size, "draws": draws}
    samples |= {"severities": severities, "seed": seed}
    late = {"min_severity": (min_severity, 0.1), "max_severity": (max_severity, 1.0), "formulas": (formulas, "original")}
    late["groups"] = (groups, None)
    samples |= {name: value for name, (value, default) in late.items() if value != default}  # folders of earlier versions lack them
    _check(samples, shard_size, workers)
    _check_crops(photograph_share, retone, clean_detail)
    recorded, chosen = {}, None
    if photographs is not None:
        of_crops = {"share": photograph_share, "retone": retone, "clean_detail": clean_detail}
        chosen, recorded = _photographs(Path(photographs), split, size=size, **of_crops)
    elif split is not None:
        raise ValueError(f"split is {split}, but there is no folder of photographs; give --photographs too.")
    destination = Path(dst)
    folders = quickstart_folders(destination, **samples, train_photographs=chosen)
    options = {"schema": SCHEMA, **samples, **recorded, "shard_size": shard_size}
    _agree(destination, list(folders), options, overwrite)
    write_folders(folders, options, shard_size=shard_size, workers=workers, photographs=None if chosen is None else chosen.folder)
    info(dst)


def codecs(
    photographs: str,
    dst: str,
    *,
    codecs: list[str] | None = None,
    severities: list[float] | None = None,
    size: int = 256,
    draws: int = 1,
    workers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a test set of compressed photographs: a group for each codec and quality, such as AVIF_Q40, of the same crops.

    Evaluate with ``mimdit test --data.test DST``. Existing shards are kept, so repeating the call continues an interrupted one.

    Args:
        photographs: Folder of photographs; those smaller than ``size`` are refused.
        dst: Folder to write.
        codecs: Codecs among jpeg, webp, avif, heic, jpeg2000, jxl, h264 and h265; null is all.
        severities: Severities of the compression, each in 0..1, from which each codec's qualities follow; null is 0, 0.5 and 1.
        size: Side of the crops in pixels, at least 16.
        draws: Crops of each photograph, at least 1.
        workers: Processes that work in parallel.
        seed: Seed of the crops' places.
        overwrite: If true, replace shards made with other options.

    Raises:
        ValueError: A codec is unknown, not installed or given twice, a severity is outside 0..1, two give a codec the same quality, size,
            draws or a list is too small, there is no photograph, one is too small, or dst holds shards made with other options.
    """
    folder, destination = Path(photographs), Path(dst)
    codecs = list(CODECS) if codecs is None else list(codecs)
    severities = [0.0, 0.5, 1.0] if severities is None else list(severities)
    samples = {"codecs": codecs, "severities": severities, "size": size, "draws": draws, "seed": seed}
    names = list_photographs(folder, size=size, options=("size",))
    recipes = codec_recipes(names, **samples)
    options = {"schema": SCHEMA, **samples, "photographs": photographs_digest(folder, names)}
    _agree(destination, [destination], options, overwrite)
    write_folders({destination: recipes}, options, shard_size=len(recipes), workers=workers, photographs=folder)
    info(dst)


def _photographs(
    folder: Path, split: str | None, *, size: int, share: float, retone: float, clean_detail: float
) -> tuple[Photographs, dict[str, Any]]:
    """Select a folder's photographs; return them and the options recorded in the index."""
    names = list_photographs(folder, size=size, split=None if split is None else Path(split), options=("split", "size"))
    recorded = {"photograph_share": share, "retone": retone, "photographs": names, "photographs_sha256": photographs_digest(folder, names)}
    if clean_detail != LEAST_DETAIL:  # folders of earlier versions lack it
        recorded["clean_detail"] = clean_detail
    return Photographs(folder, tuple(names), share, retone, clean_detail), recorded


def join(dst: str, *folders: str) -> None:
    """Join folders of shards into one, with the shards of each group numbered anew; tars are hard links where possible.

    Args:
        dst: Folder to write.
        folders: Finished folders of shards, whose shards may have the same names.

    Raises:
        ShardError: Fewer than one folder is given, one is damaged, their latents differ, or dst holds other shards.
    """
    if not folders:
        raise ShardError(f"No folder to join in {dst} is given. Give one or more finished folders of shards after it.")
    print(describe(join_folders(Path(dst), list(map(Path, folders)))))


def info(folder: str) -> None:
    """Print groups, pairs and sizes of a folder of shards, or of all such folders in it.

    Args:
        folder: A folder with an index.json, or with sub-folders that have one.

    Raises:
        ShardError: There is none, or a shard is missing or cut short.
    """
    found = sorted(path.parent for path in Path(folder).glob(f"*/{INDEX_NAME}"))
    for number, each in enumerate(found or [Path(folder)]):
        if number:
            print()
        print(describe(ShardIndex.load(each)))


def describe(index: ShardIndex) -> str:
    """Return a table of an index's groups (shards, pairs and MiB) and a line about its latents, if it has some."""
    counts = {group: (len(shards), sum(s.samples for s in shards), sum(s.bytes for s in shards)) for group, shards in index.groups.items()}
    totals = [sum(column) for column in zip(*counts.values())] or [0, 0, 0]
    rows = [*((group, *sizes) for group, sizes in counts.items()), ("all", *totals)]
    width = max(len(group) for group, *_ in rows)
    lines = [str(index.folder), f"{'group':<{width}} {'shards':>7} {'pairs':>9} {'MiB':>10}"]
    lines += [f"{group:<{width}} {shards:>7} {pairs:>9} {size / 2**20:>10.1f}" for group, shards, pairs, size in rows]
    if (record := LatentRecord.of(index)) is not None:
        lines.append(f"latents: {record}")
    return "\n".join(lines)


def _check(samples: dict[str, Any], shard_size: int, workers: int) -> None:
    """Check ranges before anything is written."""
    least = {"train_images": 1, "size": 16, "photograph_size": 16, "draws": 1, "shard_size": 1, "workers": 1}
    for name, value in {**samples, "shard_size": shard_size, "workers": workers}.items():
        if name in least and value < least[name]:
            raise ValueError(f"{name} is {value}; it must be at least {least[name]}.")
    if not 0 <= samples["clean"] <= 1:
        raise ValueError(f"clean is {samples['clean']}; it is a fraction and must lie in 0..1.")
    if not 0.1 <= samples.get("max_severity", 1.0) <= 1:
        raise ValueError(f"max_severity is {samples['max_severity']}; it must lie in 0.1..1.")
    least, most = samples.get("min_severity", 0.1), samples.get("max_severity", 1.0)
    if not 0 <= least <= most:
        raise ValueError(f"min_severity is {least}; it must lie in 0..{most}, which is max_severity.")
    if samples.get("formulas", "original") not in FORMULA_SETS:
        raise ValueError(f"formulas is {samples['formulas']!r}; it must be {' or '.join(FORMULA_SETS)}.")
    groups = samples.get("groups")
    if groups is not None and not groups:
        raise ValueError("groups is empty; name at least one group, or leave it out for all.")
    if unknown := [group for group in groups or () if (group not in GROUPS or group == CLEAN) and not is_new_mixture(group)]:
        known = ", ".join(group for group in GROUPS if group != CLEAN)
        raise ValueError(f"groups names {unknown[0]!r}; choose from {known}, or combine degradations as none of these, such as Haze_Noise.")
    severities = samples["severities"]
    if not severities or not all(0 <= severity <= 1 for severity in severities):
        raise ValueError(f"severities is {severities}; give at least one, each in 0..1.")


def _check_crops(share: float, retone: float, clean_detail: float) -> None:
    for name, value in {"photograph_share": share, "retone": retone}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it is a fraction and must lie in 0..1.")
    if not 0 <= clean_detail < math.inf:
        raise ValueError(f"clean_detail is {clean_detail}; it must be a finite number of at least 0, such as 0.005.")


def _agree(destination: Path, folders: list[Path], options: dict[str, Any], overwrite: bool) -> None:
    """Record the options before the first shard; refuse shards with other options or of other commands, or clear them if so told."""
    plan = destination / _PLAN
    # Found before the plan is read: a process that works here at the same time wrote its plan first.
    foreign = [folder for folder in folders if shards_in(folder) or (folder / INDEX_NAME).exists() or (folder / CONVERSION_PLAN).exists()]
    if plan.is_file():
        recorded = json.loads(plan.read_text())
        if recorded == options:
            return
        if not overwrite:
            names = sorted(name for name in {*recorded, *options} if recorded.get(name) != options.get(name))
            changes = ", ".join(f"{name} {_shown(recorded.get(name))} there, {_shown(options.get(name))} now" for name in names)
            raise ValueError(
                f"{destination} holds shards made with other options ({changes}). Give the same options, another folder, or "
                "--overwrite=true."
            )
        plan.unlink()
        foreign = folders
    elif foreign and not overwrite:
        raise ValueError(
            f"{foreign[0]} holds shards, but {plan} is missing, so they belong to something else. Give another folder, or "
            "--overwrite=true, which removes them."
        )
    for folder in foreign:
        clear_folder(folder, CONVERSION_PLAN)
    destination.mkdir(parents=True, exist_ok=True)
    with replace_when_whole(plan) as path:
        path.write_text(json.dumps(options, indent=1) + "\n")


def _shown(value: Any) -> str:
    """Return an option's value as text; lists of many names are cut."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
