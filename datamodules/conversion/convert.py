"""Writing one planned shard: its images are read in the order they lie in, checked, and stored in the planned order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.conversion.images import decode_upright, look_at
from datamodules.conversion.options import Options
from datamodules.conversion.plan_file import ShardLine, StoredPlan, read_planned_shard
from datamodules.conversion.planned import key_of
from datamodules.conversion.problems import BadImageError, told_when_full
from datamodules.conversion.tiles import cut_tiles, shuffled
from datamodules.shards import write_shard
from datamodules.sources.members import CorruptMemberError, MemberReader
from datamodules.sources.pairing import SourcePair

Images = tuple[bytes, bytes]
"""The files of a degraded image and of its ground truth."""


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to know to write one shard."""

    plan: Path
    line: ShardLine
    root: Path
    files: dict[str, int]
    atoms: tuple[str, ...]
    options: Options

    @classmethod
    def of(cls, plan: StoredPlan, line: ShardLine) -> "ShardJob":
        """The job of writing one shard of a plan."""
        group = plan.header["groups"][line.group]
        return cls(plan.path, line, Path(plan.header["root"]), plan.header["files"], tuple(group["atoms"]), plan.options)


def write_planned_shard(job: ShardJob) -> None:
    """Write the tar and the sidecar of one shard, beside the plan.

    At most the shard's images and what is stored of them are in memory, so twice a shard.

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
        samples = shuffled(samples, job.options.seed)
    with told_when_full(job.plan.parent):
        write_shard(job.plan.parent / shard.name, shard.group, samples, rejects)


def read_images(reader: MemberReader, pairs: Sequence[SourcePair]) -> dict[int, Images | BadImageError]:
    """Read pairs in the order they lie in, and return by their number both files of each, or why there are none."""
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
    """Make the sample of a pair, or those of its tiles.

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
            facts = look_at(data, options.check)
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
    return cut_tiles(key, *map(decode_upright, images), options.tile, options.tile_codec, fields)


def _position(pair: SourcePair, side: str) -> tuple[str, int]:
    member = getattr(pair, side)
    return member.source, member.offset
