"""Conversions of the made sources in this process, and what they wrote."""

import json
import re
from pathlib import Path
from typing import Any

from datamodules.conversion.options import Options
from datamodules.conversion.plan import prepare
from datamodules.conversion.plan_file import StoredPlan
from datamodules.conversion.write import finalize, write_shards
from datamodules.shards import RawSample, ShardIndex, read_shard
from datamodules.shards.folder import WHOLE, Part
from datamodules.sources.listing import list_pairs

SMALL = Options(shard_size=1)
"""Shards of 1 MiB, a few of each group."""


def planned(source: Path, folder: Path, options: Options = SMALL) -> StoredPlan:
    return prepare(folder, {"command": "foundir", "src": str(source), "groups": None}, options, lambda: list_pairs(source))


def converted(source: Path, folder: Path, options: Options = SMALL, *, parts: int = 1, workers: int = 1) -> Path:
    """Convert ``source`` into ``folder``, in ``parts`` parts one after the other."""
    plan = planned(source, folder, options)
    for number in range(1, parts + 1):
        write_shards(plan, part=Part(number, parts) if parts > 1 else WHOLE, workers=workers)
    finalize(plan)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(folder: Path) -> dict[str, list[RawSample]]:
    """The samples of every shard of the index, in stored order."""
    index = ShardIndex.load(folder)
    return {shard.name: list(read_shard(index.path(shard), samples=shard.samples)) for shard in index.shards}


def samples(folder: Path) -> dict[str, RawSample]:
    return {sample.key: sample for listed in stored(folder).values() for sample in listed}


def fields(sample: RawSample) -> dict[str, Any]:
    return json.loads(sample.json)


def rejected(folder: Path) -> dict[str, str]:
    """The reason of every rejected pair by its group and stem."""
    lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    return {f"{line['group']}/{line['name']}": line["reason"] for line in lines}


def stem_of(key: str) -> str:
    """The stem of a FoundIR key, of a tile's too."""
    return re.sub(r"_t\d+x\d+$", "", key.partition("/")[2])
