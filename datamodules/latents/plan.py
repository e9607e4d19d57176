"""Plan of a folder of latents: one shard for each shard of images, written before the first."""

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from datamodules.shards import INDEX_NAME, SCHEMA, ShardEntry, ShardIndex
from datamodules.shards.folder import clear_folder, name_full_disk, shards_in
from datamodules.shards.latents import LatentRecord
from datamodules.streaming.composed import check_composed
from mimdit.core.files import replace_when_whole

PLAN_NAME = "latents.json"
_REMEDY = "or encode into another folder, or give --overwrite=true to remove what is there"


@dataclass(frozen=True)
class LatentShard:
    """One shard to write: its name, its group, and its shard of images."""

    name: str
    group: str
    source: ShardEntry


@dataclass(frozen=True)
class LatentPlan:
    """Shards of a folder of latents, their source and the record of how they are made."""

    folder: Path
    source: ShardIndex
    shards: tuple[LatentShard, ...]
    record: LatentRecord
    compose: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the inputs that finished shards depend on: the images' checksums by group, the composed groups and the record."""
        groups = {shard.source.group for shard in self.shards}
        hashes = {group: digest for group, digest in self.source.hashes.items() if group in groups}
        taken = sorted({shard.group for shard in self.shards})
        return {"schema": SCHEMA, "images": hashes, "groups": taken, "compose": self.compose, "latents": self.record.to_dict()}

    def options(self) -> dict[str, Any]:
        """Return the options for the index."""
        versions = {name: metadata.version(name) for name in ("mimdit", "torch", "diffusers")}
        return {**self.to_dict(), "versions": versions}


def make_plan(
    folder: Path, source: ShardIndex, record: LatentRecord, *, groups: list[str] | None = None, compose: dict[str, str] | None = None
) -> LatentPlan:
    """Plan the latents of a folder of shards.

    Each shard of ``groups`` (None: all) gives a shard of the same name; each composed group gets one for each shard of the group whose
    clean images it degrades.

    Raises:
        ValueError: A group is not in the source, a composed one cannot be made, or the source holds latents without images.
    """
    if (made := LatentRecord.of(source)) is not None and not made.images:
        raise ValueError(f"{source.folder} holds latents without images, which cannot be encoded. Name a folder of images.")
    compose = dict(sorted((compose or {}).items()))
    chosen = sorted(source.groups) if groups is None else sorted(set(groups))
    if missing := sorted(set(chosen) - set(source.groups)):
        raise ValueError(f"{source.folder} holds no group {', '.join(missing)}. It holds {', '.join(source.groups)}.")
    check_composed(compose, sorted(source.groups))
    shards = [LatentShard(entry.name, group, entry) for group in chosen for entry in source.groups[group]]
    for group, origin in compose.items():
        shards += [LatentShard(group + entry.name.removeprefix(origin), group, entry) for entry in source.groups[origin]]
    return LatentPlan(folder, source, tuple(sorted(shards, key=lambda shard: shard.name)), record, compose)


def settle(plan: LatentPlan, *, overwrite: bool = False) -> None:
    """Write the plan into its folder, or check the one that is there.

    Several processes may call this at the same time: they write equal plans.

    Raises:
        ValueError: The folder holds other latents, or shards of something else.
    """
    path, wanted = plan.folder / PLAN_NAME, json.loads(json.dumps(plan.to_dict()))
    foreign = shards_in(plan.folder)  # before the plan is read: a process working here at the same time wrote its plan first
    if path.is_file():
        difference = _difference(json.loads(path.read_text()), wanted)
        if difference is None:
            return
        if not overwrite:
            raise ValueError(f"{plan.folder} holds other latents: {difference}. Give what was given there, {_REMEDY}.")
        clear_folder(plan.folder, PLAN_NAME)
    elif foreign or (plan.folder / INDEX_NAME).exists():
        raise ValueError(f"{plan.folder} holds shards but no {PLAN_NAME}, so they belong to something else. Give another folder.")
    with name_full_disk(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1) + "\n")


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Describe the differences between two plans; None if there are none."""
    there, now = ({**plan, **plan.get("latents", {})} for plan in (there, now))
    changed = [
        f"{name} {there.get(name)} there, {now.get(name)} now"
        for name in {**now, **there}
        if name != "latents" and there.get(name) != now.get(name)
    ]
    return "; ".join(changed) or None
