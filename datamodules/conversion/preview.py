"""Preview of a conversion: its groups, its disk space, and an estimate of its duration."""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.conversion.images import BadImageError
from datamodules.conversion.options import Options
from datamodules.conversion.plan_file import Plan, StoredPlan, pair_bytes, read_planned_shard
from datamodules.conversion.write import Shard, interleave_groups, make_samples, read_images
from datamodules.shards.folder import is_done
from datamodules.sources.members import MemberReader
from datamodules.sources.pairing import SourcePair

_TRIED = 8
"""Pairs that are read for the estimate."""


@dataclass(frozen=True)
class Estimate:
    """Measurement of a few pairs, read and checked by one process: bytes of the source per second, and stored bytes over source bytes."""

    pairs: int
    rate: float
    growth: float


def describe_groups(header: dict[str, Any]) -> str:
    """Return a table of a plan's groups, and the skipped archives and folders."""
    groups = header["groups"]
    rows = [(name, group["shards"], group["pairs"], group["bytes"]) for name, group in groups.items()]
    shards, pairs, size = (sum(group[counted] for group in groups.values()) for counted in ("shards", "pairs", "bytes"))
    rows.append(("all", shards, pairs, size))
    width = max(len(row[0]) for row in rows)
    lines = [f"{header['root']} ({header['layout']})", f"{'group':<{width}} {'shards':>7} {'pairs':>9} {'GiB':>10}"]
    lines += [f"{name:<{width}} {shards:>7} {pairs:>9} {size / 2**30:>10.3f}" for name, shards, pairs, size in rows]
    lines += [f"left aside: {name}" for name in header["skipped"]]
    counts = Counter(group for group, _, _ in header["rejects"])
    lines.append(f"rejected so far: {describe_counts(counts)}")
    return "\n".join(lines)


def describe_counts(counts: Counter[str]) -> str:
    """Describe a count of each group in one line."""
    shown = ", ".join(f"{group} {count}" for group, count in sorted(counts.items()))
    return f"{counts.total()} ({shown})" if shown else "0"


def describe_dry_run(plan: Plan | StoredPlan, options: Options, destination: Path, workers: int) -> str:
    """Describe the plan, its finished shards, the disk space of the rest, and an estimate of its duration."""
    total = sum(group["bytes"] for group in plan.header["groups"].values())
    lines = [describe_groups(plan.header)]
    rest = total
    if isinstance(plan, StoredPlan):
        done = [shard for shard in plan.shards if is_done(destination, shard.name)]
        rest -= sum(shard.bytes for shard in done)
        lines.append(f"done already: {len(done)} of {len(plan.shards)} shards")
    estimate = _estimate(plan, options)
    free = shutil.disk_usage(_existing(destination)).free
    growth = 1.0 if options.tile is None else estimate.growth
    grown = "" if options.tile is None else f", as tiles take {growth:.2f} times the images' bytes in {estimate.pairs} pairs"
    lines.append(f"disk: {rest * growth / 2**30:.3f} GiB needed{grown}; {free / 2**30:.3f} GiB free at {destination}")
    seconds = rest / estimate.rate / workers
    lines.append(
        f"time: about {_duration(seconds)} with {workers} workers, an estimate: {estimate.pairs} pairs were read and checked at "
        f"{estimate.rate / 2**20:.1f} MiB/s by one; writing, and disks that slow down when many read, are not in it"
    )
    return "\n".join(lines)


def _estimate(plan: Plan | StoredPlan, options: Options) -> Estimate:
    pairs = _sampled(plan)
    began = time.perf_counter()
    read = kept = stored = 0
    with MemberReader(Path(plan.header["root"]), plan.header["files"]) as reader:
        for pair in pairs:
            images = read_images(reader, [pair])[0]
            read += pair_bytes(pair)
            try:
                samples = make_samples(pair, images, (), options)
            except BadImageError:
                continue
            kept += pair_bytes(pair)
            stored += sum(len(part) for sample in samples for part in sample.values() if isinstance(part, bytes))
    return Estimate(len(pairs), max(read, 1) / (time.perf_counter() - began), stored / kept if kept else 1.0)


def _sampled(plan: Plan | StoredPlan) -> list[SourcePair]:
    """Return a few pairs from shards all over the plan; the order inside a shard is random, so its first pairs are representative."""
    if isinstance(plan, StoredPlan):
        chosen = [read_planned_shard(plan.path, line.offset) for line in _spread(plan.shards)]
    else:
        chosen = _spread(plan.shards)
    each = -(-_TRIED // len(chosen))
    return [pair for shard in chosen for pair in shard.pairs[:each]][:_TRIED]


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """Return a few shards from all over the plan."""
    shards = interleave_groups(shards)
    return shards[:: max(1, len(shards) // _TRIED)][:_TRIED]


def _existing(path: Path) -> Path:
    """Return the nearest existing folder."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
