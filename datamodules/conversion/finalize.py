"""Closing a conversion: the index of what was stored and the list of what was not."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.conversion.plan_file import StoredPlan
from datamodules.conversion.prepare import REJECTED_NAME
from datamodules.conversion.problems import told_when_full
from datamodules.conversion.run import is_done
from datamodules.shards import SCHEMA, ShardIndex, Sidecar
from mimdit.core.files import replace_when_whole


@dataclass(frozen=True)
class Rejected:
    """What of the source is in no shard: its group, its stem and why."""

    group: str
    name: str
    reason: str


def finalise(plan: StoredPlan) -> tuple[ShardIndex, list[Rejected]]:
    """Write ``rejected.jsonl`` and ``index.json``, which tells that the folder is complete.

    A shard of which every pair was rejected is an empty tar; the index leaves it out.

    Raises:
        ValueError: Shards are missing.
    """
    missing = [shard.name for shard in plan.shards if not is_done(plan.folder, shard.name)]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(plan.shards)} shards of {plan.folder} are missing, {missing[0]} first. Write them with "
            f"`{plan.command()}`, or with the parts of it that did not end; then finalise."
        )
    for stale in plan.folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    rejected = [Rejected(*reject) for reject in plan.header["rejects"]]
    options = {"schema": SCHEMA, "layout": plan.header["layout"], **plan.header["options"], "groups": sorted(plan.header["groups"])}
    return close(plan.folder, [shard.name for shard in plan.shards], {**options, "versions": plan.header["versions"]}, rejected)


def close(
    folder: Path, shards: Sequence[str], options: dict[str, Any], rejected: Sequence[Rejected] = ()
) -> tuple[ShardIndex, list[Rejected]]:
    """Write ``rejected.jsonl`` and ``index.json`` of the named shards, all of which are done; ``rejected`` is in none of them already."""
    rejected, entries = list(rejected), []
    for name in shards:
        sidecar = Sidecar.load(folder / name)
        rejected += [Rejected(sidecar.entry.group, stem, reason) for stem, reason in sidecar.rejects]
        if sidecar.entry.samples:
            entries.append(sidecar.entry)
    rejected.sort(key=lambda reject: (reject.group, reject.name, reject.reason))
    index = ShardIndex(folder, tuple(sorted(entries, key=lambda entry: entry.name)), options)
    with told_when_full(folder):
        with replace_when_whole(folder / REJECTED_NAME) as path:
            path.write_text("".join(json.dumps(vars(reject)) + "\n" for reject in rejected), encoding="utf-8")
        index.save()
    return index, rejected
