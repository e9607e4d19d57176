"""``mimdit shards …``: write folders of shards and look at them."""

import json
from pathlib import Path
from typing import Any

from datamodules.latents.record import LatentRecord
from datamodules.made.quickstart import quickstart_folders, write_folders
from datamodules.shards import INDEX_NAME, SCHEMA, ShardIndex
from mimdit.files import replace_when_whole

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
    max_severity: float = 1.0,
    shard_size: int = 256,
    workers: int = 2,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the quickstart's data: made training scenes, degraded photographs for validation and test.

    Shards that are there already are kept, so a call that was interrupted is continued by the same call. The bytes do not depend on the
    number of workers.

    Args:
        dst: Folder to write; gets train/, validation/ and test/.
        train_images: Number of made training images.
        size: Side of the made training images in pixels.
        clean: Share of training images that stay undegraded, 0..1.
        photograph_size: Side of the photographs for validation and test in pixels.
        draws: How often each test photograph is degraded in each group, each time with another seed and the next of the severities.
        severities: Severities of the degraded photographs, each in 0..1; null is 0.3, 0.6 and 0.9.
        max_severity: Largest severity of the training images, 0.1..1; below those of the photographs it tells how restoring carries over.
        shard_size: Pairs a shard at most.
        workers: Processes that work in parallel.
        seed: Seed of everything that is drawn.
        overwrite: Replace what was written to dst with other options.

    Raises:
        ValueError: An option is out of its range, or dst holds shards that were made with other options.
    """
    severities = [0.3, 0.6, 0.9] if severities is None else list(severities)
    samples = {
        "train_images": train_images,
        "size": size,
        "clean": clean,
        "photograph_size": photograph_size,
        "draws": draws,
        "severities": severities,
        "seed": seed,
    }
    if max_severity != 1.0:  # folders of earlier versions do not tell it
        samples["max_severity"] = max_severity
    _check(samples, shard_size, workers)
    destination = Path(dst)
    folders = quickstart_folders(destination, **samples)
    options = {"schema": SCHEMA, **samples, "shard_size": shard_size}
    _agree(destination, list(folders), options, overwrite)
    write_folders(folders, options, shard_size=shard_size, workers=workers)
    info(dst)


def info(folder: str) -> None:
    """Print groups, pairs and sizes of a folder of shards, or of all such folders in it.

    Args:
        folder: A folder with an index.json, or one whose sub-folders have one.

    Raises:
        ShardError: There is none, or a shard is missing or cut short.
    """
    found = sorted(path.parent for path in Path(folder).glob(f"*/{INDEX_NAME}"))
    for number, each in enumerate(found or [Path(folder)]):
        if number:
            print()
        print(describe(ShardIndex.load(each)))


def describe(index: ShardIndex) -> str:
    """Return a table of an index's groups: shards, pairs and MiB; and what its latents are, where it has some."""
    rows = [(group, len(shards), sum(s.samples for s in shards), sum(s.bytes for s in shards)) for group, shards in index.groups.items()]
    rows.append(("all", *(sum(row[column] for row in rows) for column in (1, 2, 3))))
    width = max(len(row[0]) for row in rows)
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
        raise ValueError(f"clean is {samples['clean']}; it is a share and must lie in 0..1.")
    if not 0.1 <= samples.get("max_severity", 1.0) <= 1:
        raise ValueError(f"max_severity is {samples['max_severity']}; it must lie in 0.1..1.")
    severities = samples["severities"]
    if not severities or not all(0 <= severity <= 1 for severity in severities):
        raise ValueError(f"severities is {severities}; give at least one, each in 0..1.")


def _agree(destination: Path, folders: list[Path], options: dict[str, Any], overwrite: bool) -> None:
    """Record the options before the first shard; refuse a folder of other options, or clear it with ``overwrite``."""
    plan = destination / _PLAN
    if plan.is_file():
        recorded = json.loads(plan.read_text())
        if recorded == options:
            return
        if not overwrite:
            names = sorted(name for name in {*recorded, *options} if recorded.get(name) != options.get(name))
            changes = ", ".join(f"{name} {recorded.get(name)} there, {options.get(name)} now" for name in names)
            raise ValueError(
                f"{destination} holds shards made with other options ({changes}). Give the same options, another folder, or "
                "--overwrite=true."
            )
        plan.unlink()
        for folder in folders:
            for old in [folder / INDEX_NAME, *(side for tar in folder.glob("*-??????.tar") for side in (tar.with_suffix(".json"), tar))]:
                old.unlink(missing_ok=True)
    destination.mkdir(parents=True, exist_ok=True)
    with replace_when_whole(plan) as path:
        path.write_text(json.dumps(options, indent=1) + "\n")
