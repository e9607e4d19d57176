"""Where shards lie: opening them for positioned reads, from local disks directly, from anywhere else through a local cache."""

import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO

from datamodules.shards.index import ShardError
from mimdit.core.files import replace_when_whole

_CHUNK = 1 << 20


def is_remote(place: str) -> bool:
    """Whether ``place`` is a URL or command that webdataset's openers read as a stream (``https://…``, ``gs://…``, ``pipe:…``)."""
    return "://" in place or is_pipe(place)


def is_pipe(place: str) -> bool:
    """Whether ``place`` is a shell command whose output is read."""
    return place.strip().lower().startswith("pipe:")


def place_of(folder: str, name: str) -> str:
    """Where file ``name`` of a folder is: ``{}`` in a URL stands for the name, else it is appended."""
    if is_remote(folder):
        return folder.replace("{}", name) if "{}" in folder else f"{folder.rstrip('/')}/{name}"
    return str(Path(folder) / name)


class ShardStore:
    """Opens shards and the small files beside them.

    Positioned reads need a file that can seek. Local files are opened as they are, unless a cache is set; what cannot seek is copied
    whole into the cache first, and there the file longest unused goes when the bound is passed. Processes may share a cache: a file
    appears under its name when it is whole, and one that is removed stays readable for who has it open.

    Args:
        cache: Folder of local copies; None reads local shards in place, and remote ones not at all.
        cache_gib: Most GiB of copies to keep; one shard is always kept.
        timeout: Seconds that copying one shard may take before it counts as missing.
        attempts: How often a copy is tried.
        allow_pipes: Whether ``pipe:`` places are run, by a shell with this process's rights. False refuses them, wherever they come from.
    """

    def __init__(
        self,
        *,
        cache: str | None = None,
        cache_gib: float = 100.0,
        timeout: float = 240.0,
        attempts: int = 3,
        allow_pipes: bool = False,
    ) -> None:
        for name, value in (("cache_gib", cache_gib), ("timeout", timeout), ("attempts", attempts)):
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0.")
        self.cache = None if cache is None else Path(cache)
        self.cache_gib, self.timeout, self.attempts = cache_gib, timeout, attempts
        self.allow_pipes = allow_pipes

    def open(self, place: str, size: int) -> BinaryIO:
        """Open a shard of ``size`` bytes, seekable and unbuffered.

        Raises:
            ShardError: It is missing, has another size, took too long to copy, is remote while no cache is set, or a ``pipe:`` that is
                not allowed.
        """
        self._refuse_pipe(place)
        if self.cache is None:
            if is_remote(place):
                raise ShardError(f"{place} cannot be read at positions. Set data.cache to a local folder, where shards are copied first.")
            try:
                return _open_local(place, size)
            except OSError as error:
                raise ShardError(f"The shard {place} cannot be opened ({error}). Copy it again or write the folder anew.") from error
        copy = self.cache / _flat(place)
        for attempt in range(1, self.attempts + 1):
            try:
                if not copy.is_file() or copy.stat().st_size != size:
                    self._fetch(place, copy, size)
                file = _open_local(str(copy), size)
                os.utime(copy)
                return file
            except OSError as error:  # also where another process made room between the copy and the opening
                if attempt == self.attempts:
                    raise ShardError(f"The shard {place} could not be copied in {attempt} attempts ({error}).") from error
                time.sleep(min(2.0**attempt, 30.0) if is_remote(place) else 0.0)
        raise AssertionError("the last attempt returns or raises")

    def read_small(self, place: str) -> bytes:
        """Read an index or a sidecar whole, anew each time.

        Raises:
            ShardError: It is missing, cannot be read, or is a ``pipe:`` that is not allowed.
        """
        self._refuse_pipe(place)
        try:
            with _stream(place) as stream:
                return stream.read()
        except OSError as error:
            raise ShardError(f"{place} cannot be read ({error}). Is it a finished folder of shards?") from error

    def _refuse_pipe(self, place: str) -> None:
        """Raise where a place is a command and none may run."""
        if is_pipe(place) and not self.allow_pipes:
            raise ShardError(
                f"{place!r} is a shell command, which is run only where the config says so. If you trust whoever wrote it, set "
                "data.allow_pipes: true."
            )

    def _fetch(self, place: str, copy: Path, size: int) -> None:
        """Copy a shard into the cache and make room for it."""
        self.cache.mkdir(parents=True, exist_ok=True)
        started, copied = time.monotonic(), 0
        with _stream(place) as source, replace_when_whole(copy) as temporary, open(temporary, "wb") as target:
            while chunk := source.read(_CHUNK):
                copied += target.write(chunk)
                if time.monotonic() - started > self.timeout:
                    raise OSError(f"{copied} of {size} bytes in {self.timeout:.0f} s; shard_timeout allows no more")
            if copied != size:
                raise OSError(f"{copied} bytes came, the index lists {size}")
        self._make_room(copy)

    def _make_room(self, newest: Path) -> None:
        """Remove the copies that were not used for longest until the bound holds."""
        found = []
        for path in self.cache.glob("*.tar"):
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another process removed it
                continue
        excess = sum(size for _, size, _ in found) - self.cache_gib * 2**30
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                excess -= size


def _stream(place: str) -> BinaryIO:
    """Open a place, to be read once from front to back: what is remote through webdataset's openers.

    What is not must not get there: they would run a local file's name that starts as a command does.
    """
    if not is_remote(place):
        return open(place, "rb")
    from webdataset.gopen import gopen  # here: it imports torch, which the processes that write shards do without

    return gopen(place)


def _open_local(path: str, size: int) -> BinaryIO:
    file = open(path, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
    if (found := os.fstat(file.fileno()).st_size) != size:
        file.close()
        raise ShardError(f"The shard {path} has {found} bytes but the index lists {size}: it was cut short or replaced. Copy it again.")
    return file


def _flat(place: str) -> str:
    """A file name that no other place has, ending as the shard's own."""
    tail = place.rstrip("/").split("/")[-1].split(" ")[0]
    tail = tail if tail.endswith(".tar") else "shard.tar"
    return f"{hashlib.sha256(place.encode()).hexdigest()[:16]}-{tail}"
