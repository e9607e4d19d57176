"""``index.json``: what a folder of shards holds, and the checks that it still holds it."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimdit.core.files import replace_when_whole

INDEX_NAME = "index.json"
SCHEMA = 1
"""Version of the layout of index, sidecars and tars; a reader refuses any other."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)*\.tar")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*")
"""What names may be made of: they become parts of paths, of URLs and of shell commands, and an index may be a stranger's."""


class ShardError(ValueError):
    """A folder of shards that is missing, damaged or of another version; says which file and what to do."""


@dataclass(frozen=True)
class ShardEntry:
    """One tar of the index: its file name, its group, how many samples and bytes it holds, and the SHA-256 of those bytes.

    Raises:
        ShardError: A name is more than letters, digits, ``_``, ``-``, ``+`` and single dots, or a number is none.
    """

    name: str
    group: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        for pattern, name in ((_NAME, self.name), (_GROUP, self.group)):
            if not isinstance(name, str) or not pattern.fullmatch(name):
                raise ShardError(
                    f"An index or sidecar names {name!r} as a shard or group. It could lead out of its folder or run a command, so "
                    "it is refused: names are letters, digits, _, - and +, those of shards end with .tar. Do not use this folder."
                )
        for value in (self.samples, self.bytes):
            if not isinstance(value, int) or value < 0:
                raise ShardError(
                    f"The entry of {self.name} tells of {value!r} samples or bytes, which is no number. Write the folder anew."
                )


@dataclass(frozen=True)
class ShardIndex:
    """The shards of one folder, sorted by name, with the options that made them.

    ``samples`` of an entry may be below what its tar holds (`first`); the tar's size is always checked in full. ``homes`` says where the
    tars of an index that was joined from several lie, by their names; all others lie in ``folder``.
    """

    folder: Path | str
    shards: tuple[ShardEntry, ...]
    options: dict[str, Any] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read ``folder/index.json`` and compare every listed tar's size with it.

        A tar that was cut short is read by webdataset without an error, hence the comparison.

        Raises:
            ShardError: The folder, the index or a listed tar is missing, the index is of another schema version or not valid, or a
                tar has another size than listed.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ShardError(f"The shard folder {folder} does not exist. Give a folder that `mimdit shards …` has written, or write it.")
        path = folder / INDEX_NAME
        if not path.is_file():
            remedy = "so it is not a finished folder of shards. Let `mimdit shards …` finish writing it."
            raise ShardError(f"{path} is missing, {remedy}")
        index = cls.parse(folder, path.read_bytes())
        index.check_sizes()
        return index

    @classmethod
    def parse(cls, folder: Path | str, content: bytes) -> "ShardIndex":
        """Read an index's content; no tar is looked at.

        Raises:
            ShardError: It is of another schema version or not valid.
        """
        return cls(folder, *_parse(f"{folder}/{INDEX_NAME}", content))

    def save(self) -> None:
        """Write ``index.json`` into the folder, whole or not at all."""
        content = {
            "schema": SCHEMA,
            "options": self.options,
            "samples": self.samples,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        with replace_when_whole(self.folder / INDEX_NAME) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")

    def check_sizes(self) -> None:
        """Compare every listed tar's size on disk with the index.

        Raises:
            ShardError: A tar is missing or has another size.
        """
        for shard in self.shards:
            path = self.path(shard)
            if not path.is_file():
                raise ShardError(f"The shard {path} is listed in {INDEX_NAME} but missing. Copy it again or write the folder anew.")
            if (size := path.stat().st_size) != shard.bytes:
                raise ShardError(
                    f"The shard {path} has {size} bytes but {INDEX_NAME} lists {shard.bytes}: it was cut short or replaced. "
                    "Copy it again or write the folder anew."
                )

    def path(self, shard: ShardEntry) -> Path:
        """Return where the tar of an entry of a local folder lies."""
        return Path(self.homes.get(shard.name, self.folder)) / shard.name

    @property
    def samples(self) -> int:
        """Number of samples over all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def groups(self) -> dict[str, list[ShardEntry]]:
        """The shards by group, groups and shards in the order of their names."""
        groups: dict[str, list[ShardEntry]] = {}
        for shard in sorted(self.shards, key=lambda shard: (shard.group, shard.name)):
            groups.setdefault(shard.group, []).append(shard)
        return groups

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each group's names, sample counts and checksums: equal when and only when its samples and their order are."""
        return {
            group: hashlib.sha256(json.dumps([(s.name, s.samples, s.sha256) for s in shards]).encode()).hexdigest()
            for group, shards in self.groups.items()
        }

    def first(self, count: int) -> "ShardIndex":
        """Return an index of only ``count`` samples, spread evenly over the groups, the first of each group.

        Raises:
            ValueError: ``count`` is below 1.
        """
        if count < 1:
            raise ValueError(f"Cannot keep the first {count} samples; give a number of at least 1.")
        groups = self.groups
        sizes = {group: sum(shard.samples for shard in shards) for group, shards in groups.items()}
        quota = dict.fromkeys(groups, 0)
        for _ in range(min(count, self.samples)):
            # The least filled group that has samples left; ties go to the earlier name.
            group = min((group for group in groups if quota[group] < sizes[group]), key=lambda group: quota[group])
            quota[group] += 1
        kept = []
        for group, shards in groups.items():
            for shard in shards:
                taken = min(shard.samples, quota[group])
                quota[group] -= taken
                if taken:
                    kept.append(dataclasses.replace(shard, samples=taken))
        return dataclasses.replace(self, shards=tuple(kept))


def _parse(name: str, content: bytes) -> tuple[tuple[ShardEntry, ...], dict[str, Any]]:
    """Read shards and options from an index's content."""
    try:
        read = json.loads(content)
        schema = read["schema"]
        if schema == SCHEMA:
            shards = tuple(sorted((ShardEntry(**shard) for shard in read["shards"]), key=lambda shard: shard.name))
            return shards, read["options"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ShardError(f"{name} is not a shard index ({type(error).__name__}: {error}). Write the folder anew.") from error
    raise ShardError(f"{name} has schema version {schema!r}; this version of the project reads {SCHEMA}. Write the folder anew.")
