"""Writing the shards of a plan that are not there yet, in processes, or a part of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from datamodules.conversion.convert import ShardJob, write_planned_shard
from datamodules.conversion.plan_file import ShardLine, StoredPlan
from datamodules.conversion.planned import PlannedShard
from datamodules.conversion.problems import ConversionStoppedError, FullDiskError
from datamodules.shards import ShardError, Sidecar
from datamodules.shards.process_pool import in_processes
from datamodules.sources.members import SourceGoneError

Shard = TypeVar("Shard", PlannedShard, ShardLine)


@dataclass(frozen=True)
class Part:
    """One of ``of`` parts of a conversion, counted from 1: every ``of``-th shard of the plan."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``"2/8"``.

        Raises:
            ValueError: It is not of this form, or there is no such part.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"part is {text!r}; give i/n with 1 <= i <= n, such as 2/8.")
        return cls(int(found[1]), int(found[2]))

    def share(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards that this part writes."""
        return list(shards[self.number - 1 :: self.of])


WHOLE = Part(1, 1)


def write_shards(plan: StoredPlan, *, part: Part = WHOLE, workers: int = 1) -> None:
    """Write the part's shards that are not done yet.

    Raises:
        ConversionStoppedError: The disk is full or the source is gone. What is finished stays; the same call continues.
    """
    shards = part.share(plan.shards)
    remove_stale(plan.folder, None if part == WHOLE else [shard.name for shard in shards])
    todo = [shard for shard in shards if not is_done(plan.folder, shard.name)]
    jobs = [ShardJob.of(plan, shard) for shard in spread(todo)]
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
                f"When that is mended, continue with `{plan.command()}`."
            ) from error


def is_done(folder: Path, name: str) -> bool:
    """A shard is done when its sidecar is there and whole, and its tar has the size that the sidecar says."""
    tar = folder / name
    if not tar.is_file() or not tar.with_suffix(".json").is_file():
        return False
    try:
        return Sidecar.load(tar).entry.bytes == tar.stat().st_size
    except ShardError:  # a sidecar that was damaged later: its shard is written anew
        return False


def spread(shards: Sequence[Shard]) -> list[Shard]:
    """Put shards in an order in which every group is begun at once and all end together, so that workers read different volumes."""
    groups: dict[str, list[Shard]] = {}
    for shard in shards:
        groups.setdefault(shard.group, []).append(shard)
    placed = [((place + 0.5) / len(listed), group, shard) for group, listed in groups.items() for place, shard in enumerate(listed)]
    return [shard for _, _, shard in sorted(placed, key=lambda each: each[:2])]


def remove_stale(folder: Path, shards: Sequence[str] | None) -> None:
    """Remove what killed processes left behind; with names of ``shards``, only what they left of these, as other parts may be at work."""
    own = None if shards is None else {name for shard in shards for name in (shard, Path(shard).with_suffix(".json").name)}
    for stale in folder.glob(".*.tmp"):
        target = re.fullmatch(r"\.(.+)\.[^.]+\.tmp", stale.name)
        if own is None or (target and target[1] in own):
            stale.unlink(missing_ok=True)
