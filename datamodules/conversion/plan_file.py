"""Plan of a conversion, and its file ``plan.jsonl``, of which a process reads only the lines it needs.

The processes that write shards import this module, so it must not import torch.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.conversion.options import Options
from datamodules.shards import SCHEMA
from datamodules.sources.members import Member
from datamodules.sources.pairing import SourcePair
from mimdit.core.files import replace_when_whole

PLAN_NAME = "plan.jsonl"
_PAIRS = b', "pairs": '


@dataclass(frozen=True)
class PlannedShard:
    """One shard to write: file name, group, and pairs in stored order."""

    name: str
    group: str
    pairs: tuple[SourcePair, ...]


@dataclass(frozen=True)
class Plan:
    """Plan of a whole conversion.

    ``header`` records its input: ``schema``, ``source`` (as the user named it), ``layout``, ``root``, ``options``, ``fingerprint``,
    ``files`` (volumes and their bytes), ``rejects``, ``skipped``, ``groups`` (for each its atoms, listed pairs, and planned pairs, bytes
    and shards) and ``versions``.
    """

    header: dict[str, Any]
    shards: tuple[PlannedShard, ...]


def key_of(group: str, stem: str) -> str:
    """Return the key of a pair, without dots, because webdataset takes the text after a dot for the suffix."""
    return f"{group}/{stem.replace('.', '_')}"


def pair_bytes(pair: SourcePair) -> int:
    """Return the bytes of both images of a pair as they are."""
    return pair.lq.size + pair.gt.size


@dataclass(frozen=True)
class ShardLine:
    """A shard of a stored plan without its pairs, and the byte offset of its line in the file."""

    name: str
    group: str
    count: int
    bytes: int
    offset: int


@dataclass(frozen=True)
class StoredPlan:
    """A plan on disk: the header of `Plan` and a line for every shard. 920,224 pairs take 200 MB on disk and little memory."""

    path: Path
    header: dict[str, Any]
    shards: tuple[ShardLine, ...]

    @classmethod
    def load(cls, path: Path) -> "StoredPlan":
        """Read the header, and of every line the part before its pairs.

        Raises:
            ValueError: The file is missing, is not a plan, or has another schema version.
        """
        if not path.is_file():
            raise ValueError(f"{path} is missing: start the conversion with `mimdit shards foundir` or `mimdit shards pairs`.")
        try:
            with open(path, "rb") as file:
                first = file.readline()
                header = json.loads(first)
                shards, offset = [], len(first)
                for line in file:
                    shards.append(ShardLine(**json.loads(line.partition(_PAIRS)[0] + b"}"), offset=offset))
                    offset += len(line)
            schema = header["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a plan ({type(error).__name__}: {error}). Convert into another folder.") from error
        if schema != SCHEMA:
            raise ValueError(f"{path} has schema version {schema!r}; this version of the project reads {SCHEMA}. Convert anew.")
        return cls(path, header, tuple(shards))

    @property
    def folder(self) -> Path:
        """Folder of the shards."""
        return self.path.parent

    @cached_property
    def options(self) -> Options:
        """Options of the conversion."""
        return Options(**self.header["options"])

    def command(self) -> str:
        """Return the command that continues the conversion."""
        source = dict(self.header["source"])
        verb, src = source.pop("command", "foundir"), source.pop("src", None)
        given = {**source, **self.header["options"]}
        defaults = Options().to_dict() | {"groups": None}
        options = [f"--{name}={_shown(value)}" for name, value in given.items() if name not in defaults or value != defaults[name]]
        return " ".join(["mimdit shards", verb, *([str(src)] if src else []), str(self.folder), *options])


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan atomically."""
    with replace_when_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(plan.header) + "\n")
        for shard in plan.shards:
            size = sum(map(pair_bytes, shard.pairs))
            pairs = [[pair.stem, pair.lq.to_list(), pair.gt.to_list()] for pair in shard.pairs]
            line = {"name": shard.name, "group": shard.group, "count": len(pairs), "bytes": size, "pairs": pairs}
            file.write(json.dumps(line) + "\n")


def read_planned_shard(path: Path, offset: int) -> PlannedShard:
    """Read the line of a stored plan that begins at byte ``offset``."""
    with open(path, "rb") as file:
        file.seek(offset)
        line = json.loads(file.readline())
    pairs = (SourcePair(line["group"], stem, Member.from_list(lq), Member.from_list(gt)) for stem, lq, gt in line["pairs"])
    return PlannedShard(line["name"], line["group"], tuple(pairs))


def _shown(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)
