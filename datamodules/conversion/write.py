"""Writing of planned shards: read the images in the order of the source, check them, store them in planned order, and close the folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from datamodules.conversion.images import BadImageError, decode_upright, inspect_image
from datamodules.conversion.options import Options
from datamodules.conversion.plan_file import PlannedShard, ShardLine, StoredPlan, key_of, read_planned_shard
from datamodules.conversion.tiles import cut_tiles, shuffle_tiles
from datamodules.shards import SCHEMA, ShardIndex, write_shard
from datamodules.shards.folder import (
    WHOLE,
    ConversionStoppedError,
    FullDiskError,
    Part,
    Rejected,
    close_folder,
    is_done,
    name_full_disk,
    remove_stale,
)
from datamodules.shards.process_pool import in_processes
from datamodules.sources.members import CorruptMemberError, MemberReader, SourceGoneError
from datamodules.sources.pairing import SourcePair

Shard = TypeVar("Shard", PlannedShard, ShardLine)
Images = tuple[bytes, bytes]
"""Files of a degraded image and of its ground truth."""


@dataclass(frozen=True)
class ShardJob:
    """Input of a process that writes one shard."""

    plan: Path
    line: ShardLine
    root: Path
    files: dict[str, int]
    atoms: tuple[str, ...]
    options: Options

    @classmethod
    def of(cls, plan: StoredPlan, line: ShardLine) -> "ShardJob":
        """Return the job for one shard of a plan."""
        group = plan.header["groups"][line.group]
        return cls(plan.path, line, Path(plan.header["root"]), plan.header["files"], tuple(group["atoms"]), plan.options)


def write_planned_shard(job: ShardJob) -> None:
    """Write the tar and the sidecar of one shard, beside the plan.

    Memory holds at most the shard's images and their stored samples: twice the size of a shard.

    Raises:
        FullDiskError: No space is left.
        SourceGoneError: A file or volume of the source is missing or changed.
    """
    shard = read_planned_shard(job.plan, job.line.offset)
    rejects: list[tuple[str, str]] = []
    samples: list[dict[str, Any]] = []
    with MemberReader(job.root, job.files) as reader:
        images = read_images(reader, shard.pairs)
    for number, pair in enumerate(shard.pairs):
        try:
            samples += make_samples(pair, images.pop(number), job.atoms, job.options)
        except BadImageError as error:
            rejects.append((pair.stem, str(error)))
    if job.options.tile is not None:
        samples = shuffle_tiles(samples, job.options.seed)
    with name_full_disk(job.plan.parent):
        write_shard(job.plan.parent / shard.name, shard.group, samples, rejects)


def read_images(reader: MemberReader, pairs: Sequence[SourcePair]) -> dict[int, Images | BadImageError]:
    """Read pairs in the order of the source; return by number both files of each pair, or its error."""
    members = sorted(
        ((side, number) for number in range(len(pairs)) for side in ("lq", "gt")),
        key=lambda place: _position(pairs[place[1]], place[0]),
    )
    read: dict[tuple[str, int], bytes] = {}
    bad: dict[int, BadImageError] = {}
    for side, number in members:
        if number not in bad:
            try:
                read[side, number] = reader.read(getattr(pairs[number], side))
            except CorruptMemberError as error:
                bad[number] = BadImageError(f"{side}: {error}")
    return {number: bad.get(number) or (read.pop(("lq", number)), read.pop(("gt", number))) for number in range(len(pairs))}


def make_samples(pair: SourcePair, images: Images | BadImageError, atoms: Sequence[str], options: Options) -> list[dict[str, Any]]:
    """Make the sample of a pair, or the samples of its tiles.

    Raises:
        BadImageError: An image is unreadable, or the two differ in size.
    """
    if isinstance(images, BadImageError):
        raise images
    fields: dict[str, Any] = {"group": pair.group, "atoms": list(atoms)}
    stored: dict[str, bytes] = {}
    sizes = {}
    for side, data, member in zip(("lq", "gt"), images, (pair.lq, pair.gt)):
        try:
            facts = inspect_image(data, options.check)
        except BadImageError as error:
            raise BadImageError(f"{side}: {member.name}: {error}") from error
        stored[f"{side}.{facts.suffix}"] = data
        sizes[side] = (facts.width, facts.height)
        fields[f"{side}_orientation"] = facts.orientation
        fields[f"{side}_source"] = member.name
        fields[f"{side}_sha256"] = hashlib.sha256(data).hexdigest()
    if sizes["lq"] != sizes["gt"]:
        shown = {side: f"{width}x{height}" for side, (width, height) in sizes.items()}
        raise BadImageError(f"the images differ in size: lq is {shown['lq']}, gt is {shown['gt']} (width x height)")
    fields["width"], fields["height"] = sizes["lq"]
    key = key_of(pair.group, pair.stem)
    if options.tile is None:
        return [{"__key__": key, **stored, "json": fields}]
    lq, gt = (decode_upright(image) for image in images)
    return cut_tiles(key, lq, gt, options.tile, options.tile_codec, fields)


def _position(pair: SourcePair, side: str) -> tuple[str, int]:
    member = getattr(pair, side)
    return member.source, member.offset


def write_shards(plan: StoredPlan, *, part: Part = WHOLE, workers: int = 1) -> None:
    """Write the part's missing shards.

    Raises:
        ConversionStoppedError: The disk is full or the source is gone. Finished shards stay; the same call continues.
    """
    shards = part.share(plan.shards)
    remove_stale(plan.folder, None if part == WHOLE else [shard.name for shard in shards])
    todo = [shard for shard in shards if not is_done(plan.folder, shard.name)]
    jobs = [ShardJob.of(plan, shard) for shard in interleave_groups(todo)]
    total = sum(shard.count for shard in shards)
    finished = len(shards) - len(todo)
    with tqdm(total=total, initial=total - sum(shard.count for shard in todo), unit="pair", desc="shards") as bar:
        try:
            for job, _ in in_processes(write_planned_shard, jobs, workers):
                finished += 1
                bar.update(job.line.count)
        except (FullDiskError, SourceGoneError) as error:
            where = "" if part == WHOLE else f" of part {part.number}/{part.of}"
            raise ConversionStoppedError(
                f"{error} The conversion stopped: {finished} of {len(shards)} shards{where} are finished and stay. "
                f"Fix that, then continue with `{plan.command()}`."
            ) from error


def interleave_groups(shards: Sequence[Shard]) -> list[Shard]:
    """Order shards so that all groups start at once and end together, and workers read different volumes."""
    groups: dict[str, list[Shard]] = {}
    for shard in shards:
        groups.setdefault(shard.group, []).append(shard)
    placed = [((place + 0.5) / len(listed), group, shard) for group, listed in groups.items() for place, shard in enumerate(listed)]
    return [shard for _, _, shard in sorted(placed, key=lambda each: each[:2])]


def finalize(plan: StoredPlan) -> tuple[ShardIndex, list[Rejected]]:
    """Write ``rejected.jsonl`` and ``index.json``, which marks the folder as complete.

    A shard whose pairs were all rejected is an empty tar; the index leaves it out.

    Raises:
        ValueError: Shards are missing.
    """
    missing = [shard.name for shard in plan.shards if not is_done(plan.folder, shard.name)]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(plan.shards)} shards of {plan.folder} are missing, {missing[0]} first. Write them with "
            f"`{plan.command()}`, or with its unfinished parts; then finalize."
        )
    for stale in plan.folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    rejected = [Rejected(*reject) for reject in plan.header["rejects"]]
    options = {"schema": SCHEMA, "layout": plan.header["layout"], **plan.header["options"], "groups": sorted(plan.header["groups"])}
    return close_folder(plan.folder, [shard.name for shard in plan.shards], {**options, "versions": plan.header["versions"]}, rejected)
