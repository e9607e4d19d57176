"""Folder of shards that is being written: in parts, by several processes, interrupted and continued, and closed at the end."""

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datamodules.shards.index import INDEX_NAME, ShardError, ShardIndex, Sidecar, sidecar_path
from mimdit.core.files import replace_when_whole

REJECTED_NAME = "rejected.jsonl"

Shard = TypeVar("Shard")


class FullDiskError(ValueError):
    """No space is left in the folder of the shards."""


class ConversionStoppedError(ValueError):
    """The conversion cannot continue; the message gives the reason, what is finished and how to continue."""


@contextmanager
def name_full_disk(destination: Path) -> Iterator[None]:
    """Turn the system's error about a full disk or quota into a `FullDiskError` that names the folder.

    Raises:
        FullDiskError: No space is left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        limit = "quota is used up" if error.errno == errno.EDQUOT else "disk is full"
        raise FullDiskError(f"The {limit} at {destination}.") from error


@dataclass(frozen=True)
class Part:
    """One of ``of`` parts of some work, counted from 1: of a conversion, every ``of``-th shard of the plan."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse a part such as ``"2/8"``.

        Raises:
            ValueError: The text has another form, or there is no such part.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"part is {text!r}; give i/n with 1 <= i <= n, such as 2/8.")
        return cls(int(found[1]), int(found[2]))

    def holds(self, name: str) -> bool:
        """Return true if the file of this name belongs to the part, which depends on the name alone: other files make no difference."""
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.of == self.number - 1

    def share(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards of this part."""
        return list(shards[self.number - 1 :: self.of])


WHOLE = Part(1, 1)


def shards_in(destination: Path) -> list[Path]:
    """Return the tars of a folder that are named as shards."""
    return sorted(destination.glob("*-??????.tar"))


def is_done(folder: Path, name: str) -> bool:
    """Return true if a shard's sidecar exists and is valid, and its tar has the recorded size."""
    tar = folder / name
    if not tar.is_file() or not tar.with_suffix(".json").is_file():
        return False
    try:
        return Sidecar.load(tar).entry.bytes == tar.stat().st_size
    except ShardError:  # the sidecar was damaged later; write its shard again
        return False


def remove_stale(folder: Path, shards: Sequence[str] | None) -> None:
    """Remove temporary files of killed processes; with ``shards``, only those of these names, because other parts may be running."""
    own = None if shards is None else {name for shard in shards for name in (shard, Path(shard).with_suffix(".json").name)}
    for stale in folder.glob(".*.tmp"):
        target = re.fullmatch(r"\.(.+)\.[^.]+\.tmp", stale.name)
        if own is None or (target and target[1] in own):
            stale.unlink(missing_ok=True)


def clear_folder(folder: Path, plan_name: str) -> None:
    """Remove the plan first, then the shards: a half-removed folder has no plan, so it is never continued."""
    tars = shards_in(folder)
    for old in [*(folder / name for name in (plan_name, INDEX_NAME, REJECTED_NAME)), *map(sidecar_path, tars), *tars]:
        old.unlink(missing_ok=True)


@dataclass(frozen=True)
class Rejected:
    """A pair of the source that is in no shard: its group, its stem and the reason."""

    group: str
    name: str
    reason: str


def close_folder(
    folder: Path, shards: Sequence[str], options: dict[str, Any], rejected: Sequence[Rejected] = ()
) -> tuple[ShardIndex, list[Rejected]]:
    """Write ``rejected.jsonl`` and ``index.json`` of the named shards, which must all be done.

    ``rejected`` are the pairs rejected earlier; the sidecars' rejects are added.
    """
    rejected, entries = list(rejected), []
    for name in shards:
        sidecar = Sidecar.load(folder / name)
        rejected += [Rejected(sidecar.entry.group, stem, reason) for stem, reason in sidecar.rejects]
        if sidecar.entry.samples:
            entries.append(sidecar.entry)
    rejected.sort(key=lambda reject: (reject.group, reject.name, reject.reason))
    index = ShardIndex(folder, tuple(sorted(entries, key=lambda entry: entry.name)), options)
    with name_full_disk(folder):
        with replace_when_whole(folder / REJECTED_NAME) as path:
            path.write_text("".join(json.dumps(vars(reject)) + "\n" for reject in rejected), encoding="utf-8")
        index.save()
    return index, rejected
