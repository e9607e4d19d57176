"""Index of a folder (``index.json``) and sidecars of its tars: their content, and the check of the tars' sizes."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimdit.core.files import replace_when_whole

INDEX_NAME = "index.json"
SCHEMA = 1
"""Version of the layout of index, sidecars and tars; readers refuse any other."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)*\.tar")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*")
"""Allowed names: they become parts of paths, of URLs and of shell commands, and an index may come from a stranger."""


class ShardError(ValueError):
    """A folder of shards that is missing, damaged or of another version; the message names the file and the remedy."""


@dataclass(frozen=True)
class ShardEntry:
    """One tar of the index: file name, group, number of samples and bytes, and the SHA-256 of those bytes.

    Raises:
        ShardError: A name has characters other than letters, digits, ``_``, ``-``, ``+`` and single dots, or a number is invalid.
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
                raise ShardError(f"The entry of {self.name} has {value!r} samples or bytes, which is not a number. Write the folder anew.")


@dataclass(frozen=True)
class ShardIndex:
    """Shards of one folder, sorted by name, with the options that made them.

    ``samples`` of an entry may be below the number in its tar (see `first`); the size of the tar is always checked in full. ``homes`` maps
    tar names to folders in an index joined from several folders; all other tars are in ``folder``.
    """

    folder: Path | str
    shards: tuple[ShardEntry, ...]
    options: dict[str, Any] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read ``folder/index.json`` and check the size of every listed tar.

        The check is needed because webdataset reads a truncated tar without an error.

        Raises:
            ShardError: The folder, the index or a listed tar is missing, the index has another schema version or is invalid, or a tar has
                another size than listed.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ShardError(f"The shard folder {folder} does not exist. {_how_to_write(folder)}")
        path = folder / INDEX_NAME
        if not path.is_file():
            remedy = "so this is not a finished folder of shards. Let `mimdit shards …` finish writing it."
            raise ShardError(f"{path} is missing, {remedy}")
        index = cls.parse(folder, path.read_bytes())
        index.check_sizes()
        return index

    @classmethod
    def parse(cls, folder: Path | str, content: bytes) -> "ShardIndex":
        """Parse the content of an index, without checking any tar.

        Raises:
            ShardError: It has another schema version or is invalid.
        """
        return cls(folder, *_parse(f"{folder}/{INDEX_NAME}", content))

    def save(self) -> None:
        """Write ``index.json`` into the folder atomically."""
        content = {
            "schema": SCHEMA,
            "options": self.options,
            "samples": self.samples,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        with replace_when_whole(Path(self.folder) / INDEX_NAME) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")

    def check_sizes(self) -> None:
        """Compare the size of every listed tar with the index.

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
        """Return the path of an entry's tar in a local folder."""
        return Path(self.homes.get(shard.name, self.folder)) / shard.name

    @property
    def samples(self) -> int:
        """Number of samples over all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def groups(self) -> dict[str, list[ShardEntry]]:
        """Shards by group; groups and shards are sorted by name."""
        groups: dict[str, list[ShardEntry]] = {}
        for shard in sorted(self.shards, key=lambda shard: (shard.group, shard.name)):
            groups.setdefault(shard.group, []).append(shard)
        return groups

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each group's names, sample counts and checksums, equal if and only if its samples and their order are equal."""
        return {
            group: hashlib.sha256(json.dumps([(s.name, s.samples, s.sha256) for s in shards]).encode()).hexdigest()
            for group, shards in self.groups.items()
        }

    def first(self, count: int, groups: Collection[str] | None = None) -> "ShardIndex":
        """Return an index of ``count`` samples: the first of each group, spread evenly over the groups.

        Fewer samples than groups are one each of the groups whose names come first.

        Args:
            count: Number of samples.
            groups: Names of the groups to take them from; None for all. Names without shards are ignored.

        Raises:
            ValueError: ``count`` is below 1.
        """
        if count < 1:
            raise ValueError(f"Cannot keep the first {count} samples; give a number of at least 1.")
        groups = {name: shards for name, shards in self.groups.items() if groups is None or name in groups}
        sizes = {group: sum(shard.samples for shard in shards) for group, shards in groups.items()}
        quota = dict.fromkeys(groups, 0)
        for _ in range(min(count, sum(sizes.values()))):
            # The least filled group with samples left; ties go to the earlier name.
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


def _how_to_write(folder: Path) -> str:
    if folder.parent.name == "quickstart" and folder.name in ("train", "validation", "test"):
        return f"Write it: `mimdit shards quickstart {folder.parent}`."
    commands = "`mimdit shards foundir`, `mimdit shards pairs` or `mimdit shards quickstart`"
    return f"Name another, or write it by {commands}; the head of a config names the command for its data."


def _parse(name: str, content: bytes) -> tuple[tuple[ShardEntry, ...], dict[str, Any]]:
    """Parse shards and options from the content of an index."""
    try:
        read = json.loads(content)
        schema = read["schema"]
        if schema == SCHEMA:
            shards = tuple(sorted((ShardEntry(**shard) for shard in read["shards"]), key=lambda shard: shard.name))
            return shards, read["options"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ShardError(f"{name} is not a shard index ({type(error).__name__}: {error}). Write the folder anew.") from error
    raise ShardError(f"{name} has schema version {schema!r}; this version of the project reads {SCHEMA}. Write the folder anew.")


@dataclass(frozen=True)
class SampleSpan:
    """Place of one sample in its tar: ``size`` bytes from byte ``offset`` on, including tar headers."""

    key: str
    offset: int
    size: int


@dataclass(frozen=True)
class Sidecar:
    """Sidecar of a tar: the tar's entry in the index, the span of every sample in stored order, and the rejected pairs.

    ``rejects`` are names and reasons of pairs that were planned for the tar and could not be used. A shard is done when its sidecar exists.
    """

    entry: ShardEntry
    spans: tuple[SampleSpan, ...]
    rejects: tuple[tuple[str, str], ...] = ()

    def save(self, folder: Path) -> None:
        """Write the sidecar beside its tar atomically."""
        content = {
            "schema": SCHEMA,
            "entry": dataclasses.asdict(self.entry),
            "spans": [dataclasses.astuple(span) for span in self.spans],
            "rejects": self.rejects,
        }
        with replace_when_whole(sidecar_path(folder / self.entry.name)) as path:
            path.write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, shard: Path) -> "Sidecar":
        """Read the sidecar of a tar.

        Raises:
            ShardError: It is missing, damaged or of another schema version.
        """
        path = sidecar_path(shard)
        if not path.is_file():
            raise ShardError(f"The sidecar {path} of the shard {shard.name} is missing. Copy it again or write the folder anew.")
        return cls.parse(str(path), path.read_bytes())

    @classmethod
    def parse(cls, name: str, content: bytes) -> "Sidecar":
        """Parse the content of a sidecar; ``name`` is for the errors, which are those of `load`."""
        try:
            read = json.loads(content)
            if read["schema"] == SCHEMA:
                spans = tuple(SampleSpan(*span) for span in read["spans"])
                entry = ShardEntry(**read["entry"])
                if any(not 0 <= span.offset < span.offset + span.size <= entry.bytes for span in spans):
                    raise ShardError(f"{name} lists samples beyond its tar of {entry.bytes} bytes. Write the folder anew.")
                rejects = tuple((str(name), str(reason)) for name, reason in read.get("rejects", ()))
                return cls(entry, spans, rejects)
        except ShardError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{name} is not a sidecar ({type(error).__name__}: {error}). Write the folder anew.") from error
        raise ShardError(f"{name} has schema version {read['schema']!r}; this version of the project reads {SCHEMA}. Write it anew.")


def sidecar_path(shard: Path) -> Path:
    """Return the path of a tar's sidecar: ``08Haze-000012.json`` for ``08Haze-000012.tar``."""
    return shard.with_suffix(".json")
