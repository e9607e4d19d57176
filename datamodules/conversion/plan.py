"""Plan of a conversion: listing, sizes, seed and options determine the content of each shard before an image is read."""

import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from datamodules.conversion.options import Options
from datamodules.conversion.plan_file import PLAN_NAME, Plan, PlannedShard, StoredPlan, key_of, pair_bytes, save_plan
from datamodules.degradations import atoms_of_group
from datamodules.rng import named_rng
from datamodules.shards import INDEX_NAME, SCHEMA, shard_name
from datamodules.shards.folder import clear_folder, name_full_disk, shards_in
from datamodules.sources.members import Member
from datamodules.sources.pairing import Listing, Reject, SourcePair

TILE_GROWTH = {"png": (3.0, 1.4), "webp": (1.6, 0.8)}
"""Bytes of an image's stored tiles divided by its own, by codec: for files named as JPEG, and for others. Not in the paper.

Only used to keep shards of tiles near ``shard_size``. Three of FoundIR's test pairs were cut into tiles of 512 pixels, a third of
whose area is overlap at the borders: JPEGs took 3.0 times their bytes as PNG and 1.6 as WebP, PNGs 1.3 to 1.5 and 0.7 to 0.95.
"""

_REMEDY = "or convert into another folder, or give --overwrite=true to remove what is there"


def make_plan(listing: Listing, options: Options, source: dict[str, Any] | None = None) -> Plan:
    """Plan the shards of a listing.

    Each group's pairs are permuted by (seed, group), so that neighbors in a scene are separated. A limit takes the first pairs of that
    order, so the shards of a limited conversion are the first of the full one's (the last may be shorter). Then the order is cut into
    shards: a pair opens the next shard when the bytes would exceed ``shard_size``.

    Args:
        listing: The source's pairs.
        options: Options of the conversion.
        source: The source as the user named it; recorded in the plan.

    Raises:
        ValueError: There are no pairs, or a group's name is not allowed or does not name its degradations.
    """
    shards: list[PlannedShard] = []
    groups: dict[str, dict[str, Any]] = {}
    rejects = list(listing.rejects)
    for group, listed in _by_group(listing.pairs):
        if "." in group or "/" in group:
            raise ValueError(f"The group {group!r} contains a dot or a slash, which a shard's name cannot. Rename it.")
        pairs, doubles = _without_doubles(group, listed)
        rejects += doubles
        order = named_rng(options.seed, group).permutation(len(pairs))[: options.taken(len(pairs))]
        planned = _cut([pairs[place] for place in order], options)
        shards += [PlannedShard(shard_name(group, number), group, tuple(each)) for number, each in enumerate(planned)]
        groups[group] = {
            "atoms": list(atoms_of_group(group)),
            "listed": len(listed),
            "pairs": len(order),
            "bytes": sum(pair_bytes(pair) for each in planned for pair in each),
            "shards": len(planned),
        }
    if not shards:
        raise ValueError(f"{listing.root} holds no pair that can be converted ({len(rejects)} files found no partner).")
    header = {
        "schema": SCHEMA,
        "source": source or {},
        "layout": listing.layout,
        "root": str(listing.root),
        "options": options.to_dict(),
        "fingerprint": listing.fingerprint,
        "files": dict(listing.files),
        "rejects": sorted([reject.group, reject.name, reject.reason] for reject in rejects),
        "skipped": list(listing.skipped),
        "groups": groups,
        "versions": versions(),
    }
    return Plan(header, tuple(shards))


def versions() -> dict[str, str]:
    """Return the versions that the bytes of a conversion may depend on."""
    return {
        "mimdit": metadata.version("mimdit"),
        "python": platform.python_version(),
        "cv2": cv2.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _by_group(pairs: Sequence[SourcePair]) -> Iterator[tuple[str, list[SourcePair]]]:
    groups: dict[str, list[SourcePair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    yield from sorted(groups.items())


def _without_doubles(group: str, pairs: list[SourcePair]) -> tuple[list[SourcePair], list[Reject]]:
    """Split pairs into those with a key of their own and those whose key an earlier stem already has, such as ``a.b`` after ``a_b``."""
    stems: dict[str, str] = {}
    kept, doubles = [], []
    for pair in sorted(pairs, key=lambda pair: pair.stem):
        first = stems.setdefault(key_of(group, pair.stem), pair.stem)
        if first == pair.stem:
            kept.append(pair)
        else:
            doubles.append(Reject(group, pair.stem, f"its key {key_of(group, pair.stem)} is also that of the stem {first!r}"))
    return kept, doubles


def _cut(pairs: list[SourcePair], options: Options) -> list[list[SourcePair]]:
    """Cut pairs, in their order, into shards of about ``shard_size``."""
    target = options.shard_size * 2**20
    shards: list[list[SourcePair]] = []
    filled = 0.0
    for pair in pairs:
        size = _weight(pair.lq, options) + _weight(pair.gt, options)
        if not shards or filled + size > target:
            shards.append([])
            filled = 0.0
        shards[-1].append(pair)
        filled += size
    return shards


def _weight(member: Member, options: Options) -> float:
    """Return the bytes that a member will take in its shard, estimated for tiles."""
    if options.tile is None:
        return member.size
    jpeg, other = TILE_GROWTH[options.tile_codec]
    return member.size * (jpeg if member.name.lower().endswith((".jpg", ".jpeg")) else other)


def prepare(
    destination: Path, source: dict[str, Any], options: Options, list_source: Callable[[], Listing], *, overwrite: bool = False
) -> StoredPlan:
    """Return the plan of ``destination``: an existing one of the same source and options, or else a new one.

    An existing plan saves listing the source again. Several processes may call this at the same time: they write equal plans.

    Args:
        destination: Folder of the shards.
        source: The source as the user named it; its files must not have changed since the plan was made.
        options: Options of the conversion.
        list_source: Lists the source.
        overwrite: If true, remove a conversion of another source or with other options.

    Raises:
        ValueError: The folder holds another conversion, or shards without a plan; or the source changed.
    """
    path = destination / PLAN_NAME
    foreign = shards_in(destination)  # before the plan is read: a process working here at the same time wrote its plan first
    if path.is_file():
        stored = StoredPlan.load(path)
        difference = _difference(stored, source, options)
        if difference is None:
            return stored
        if not overwrite:
            raise ValueError(f"{destination} holds another conversion: {difference}. Give what was given there, {_REMEDY}.")
        clear_folder(destination, PLAN_NAME)
    elif foreign or (destination / INDEX_NAME).exists():
        if not overwrite:
            raise ValueError(f"{destination} holds shards but no {PLAN_NAME}, so they belong to something else. Move them, {_REMEDY}.")
        clear_folder(destination, PLAN_NAME)
    with name_full_disk(destination):
        destination.mkdir(parents=True, exist_ok=True)
        save_plan(make_plan(list_source(), options, source), path)
    return StoredPlan.load(path)


def existing_plan(destination: Path, source: dict[str, Any], options: Options) -> StoredPlan | None:
    """Return the plan of ``destination`` if it has the same source and options, else None."""
    path = destination / PLAN_NAME
    if not path.is_file():
        return None
    stored = StoredPlan.load(path)
    return None if _difference(stored, source, options) else stored


def changed_versions(plan: StoredPlan) -> str | None:
    """Describe the differences between the versions in a plan and the installed ones; None if there are none."""
    before, now = plan.header["versions"], versions()
    changed = [f"{name} {before.get(name)} there, {now[name]} now" for name in now if before.get(name) != now[name]]
    return ", ".join(changed) or None


def _difference(plan: StoredPlan, source: dict[str, Any], options: Options) -> str | None:
    """Describe how the source and options of a plan differ from those given now; None if they do not."""
    there, now = {**plan.header["source"], **plan.header["options"]}, {**source, **options.to_dict()}
    changed = [f"{name} {there.get(name)} there, {now.get(name)} now" for name in {**now, **there} if there.get(name) != now.get(name)]
    for name, size in plan.header["files"].items():
        file = Path(plan.header["root"]) / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            changed.append(f"{file} had {size} bytes then and " + ("is missing now" if found is None else f"has {found} now"))
    return ", ".join(changed) or None
