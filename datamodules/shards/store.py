"""Access to a config's shards by positioned reads: to local ones directly, to remote ones through a local cache."""

import dataclasses
import glob
import hashlib
import os
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from braceexpand import braceexpand

from datamodules.shards.index import INDEX_NAME, ShardEntry, ShardError, ShardIndex, Sidecar
from mimdit.core.files import replace_when_whole

if TYPE_CHECKING:
    from webdataset.gopen import Pipe

_CHUNK = 1 << 20


def is_remote(place: str) -> bool:
    """Return true for a URL or command that webdataset's openers read as a stream (``https://…``, ``gs://…``, ``pipe:…``)."""
    return "://" in place or is_pipe(place)


def is_pipe(place: str) -> bool:
    """Return true for a shell command whose output is read."""
    return place.strip().lower().startswith("pipe:")


def place_of(folder: str, name: str) -> str:
    """Return the place of file ``name`` in a folder: the name replaces ``{}`` in a URL, else it is appended."""
    if is_remote(folder):
        return folder.replace("{}", name) if "{}" in folder else f"{folder.rstrip('/')}/{name}"
    return str(Path(folder) / name)


class ShardStore:
    """Opener of shards and the small files beside them.

    Positioned reads need a seekable file. Local files are opened directly, unless a cache is set; other files are first copied into the
    cache, from which the least recently used one is removed at the size limit. Processes may share a cache: a file appears under its name
    when it is complete, and a removed file stays readable for processes that have it open.

    Args:
        cache: Folder of local copies; None reads local shards directly and refuses remote ones.
        cache_gib: Maximum size of the copies in GiB; one shard is always kept.
        timeout: Seconds to copy one shard before it counts as missing.
        attempts: Number of attempts to copy a shard.
        allow_pipes: If true, ``pipe:`` places run in a shell with this process's rights; otherwise they are refused.

    Raises:
        ValueError: A number is not above 0.
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
            ShardError: It is missing, has another size, took too long to copy, is remote without a cache, or is a ``pipe:`` that is not
                allowed.
        """
        self._refuse_pipe(place)
        if self.cache is None:
            if is_remote(place):
                raise ShardError(f"{place} is remote and not seekable. Set data.cache to a local folder for copies of the shards.")
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
            except OSError as error:  # also if another process removed the copy before it was opened
                if attempt == self.attempts:
                    raise ShardError(f"The shard {place} could not be copied in {attempt} attempts ({error}).") from error
                time.sleep(min(2.0**attempt, 30.0) if is_remote(place) else 0.0)
        raise AssertionError("the last attempt returns or raises")

    def read_small(self, place: str) -> bytes:
        """Read an index or a sidecar, anew each time.

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
        """Raise if a place is a command and commands are not allowed."""
        if is_pipe(place) and not self.allow_pipes:
            raise ShardError(
                f"{place!r} is a shell command, which runs only if the config allows it. If you trust its author, set "
                "data.allow_pipes: true."
            )

    def _fetch(self, place: str, copy: Path, size: int) -> None:
        """Copy a shard into the cache and make room for it."""
        copy.parent.mkdir(parents=True, exist_ok=True)
        started, copied = time.monotonic(), 0
        with _stream(place) as source, replace_when_whole(copy) as temporary, open(temporary, "wb") as target:
            while chunk := source.read(_CHUNK):
                copied += target.write(chunk)
                if time.monotonic() - started > self.timeout:
                    raise OSError(f"{copied} of {size} bytes in {self.timeout:.0f} s, the limit of shard_timeout")
            if copied != size:
                raise OSError(f"{copied} bytes came, the index lists {size}")
        self._make_room(copy)

    def _make_room(self, newest: Path) -> None:
        """Remove the least recently used copies until the size limit holds."""
        found = []
        for path in newest.parent.glob("*.tar"):
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


def _stream(place: str) -> "BinaryIO | Pipe":
    """Open a place to read it once from front to back, remote ones through webdataset's openers.

    Local places must not reach these openers, which would run a file name that starts like a command.
    """
    if not is_remote(place):
        return open(place, "rb")
    from webdataset.gopen import gopen  # imported here because it imports torch, which processes that write shards do not need

    return gopen(place)


def _open_local(path: str, size: int) -> BinaryIO:
    file = open(path, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
    if (found := os.fstat(file.fileno()).st_size) != size:
        file.close()
        raise ShardError(f"The shard {path} has {found} bytes but the index lists {size}: it was cut short or replaced. Copy it again.")
    return file


def _flat(place: str) -> str:
    """Return a file name that is unique to a place and ends like the shard's own."""
    tail = place.rstrip("/").split("/")[-1].split(" ")[0]
    tail = tail if tail.endswith(".tar") else "shard.tar"
    return f"{hashlib.sha256(place.encode()).hexdigest()[:16]}-{tail}"


def open_index(places: str | list[str], store: ShardStore) -> ShardIndex:
    """Read the index of ``places``, joined if there are several.

    A place is a local folder, a glob of folders (``data/foundir-*``), a tar or a glob of tars inside a folder (``data/foundir/0?*.tar``),
    or the URL of a folder or of a tar in it (``https://host/foundir``; ``pipe:aws s3 cp s3://bucket/foundir/{} -``, where a file name
    replaces ``{}``, which the store must allow). Braces list several: ``data/foundir/08Haze-{000000..000009}.tar``, ``data/{one,two}``.

    Raises:
        ShardError: A place matches nothing, an index or a local tar is missing or damaged, two folders have shards of one name, or their
            latents cannot form one batch.
    """
    places = [places] if isinstance(places, str) else list(places)
    if not places:
        raise ShardError("No folder of shards is named. Give at least one.")
    chosen: dict[str, dict[str, None]] = {}
    for place in (each for listed in places for each in _expanded(listed)):
        folder, tars = _split(place)
        chosen.setdefault(folder, {})[tars] = None
    indices = [index for folder, tars in chosen.items() for index in _only(list(tars), folder, _open(folder, store))]
    return indices[0] if len(indices) == 1 else _join(indices)


def sidecar_of(index: ShardIndex, shard: ShardEntry, store: ShardStore) -> Sidecar:
    """Read the sidecar of an index's entry, local or remote.

    Raises:
        ShardError: It is missing, damaged, or lists fewer samples than the index.
    """
    folder = index.homes.get(shard.name, str(index.folder))
    name = Path(shard.name).with_suffix(".json").name
    place = place_of(folder, name)
    sidecar = Sidecar.parse(place, store.read_small(place))
    if len(sidecar.spans) < shard.samples:
        raise ShardError(f"{place} lists {len(sidecar.spans)} samples, the index {shard.samples}: it is from another tar. Copy it again.")
    return sidecar


def shard_place(index: ShardIndex, shard: ShardEntry) -> str:
    """Return the place of an entry's tar."""
    return place_of(index.homes.get(shard.name, str(index.folder)), shard.name)


def _expanded(place: str) -> list[str]:
    """Return the places that braces list, as in a shell; commands and existing files and folders stay as they are."""
    if "{" not in place or is_pipe(place) or Path(place).exists():
        return [place]
    try:
        return list(braceexpand(place, escape=False))
    except ValueError as error:
        raise ShardError(f"The braces of {place} cannot be read ({error}). Write {{000000..000009}} or {{one,two}}.") from error


def _split(place: str) -> tuple[str, str]:
    """Return the folder of a place, which may be a glob, and the name or glob of its tars; ``*`` for all."""
    if is_pipe(place):
        return place, "*"
    if is_remote(place):
        folder, _, name = place.rpartition("/")
        return (folder, name) if name.endswith(".tar") else (place, "*")
    path = Path(place)
    names_tars = path.suffix == ".tar" and not path.is_dir()
    if names_tars or (glob.has_magic(path.name) and (path.parent / INDEX_NAME).is_file()):
        return str(path.parent), path.name
    return place, "*"


def _open(folder: str, store: ShardStore) -> list[ShardIndex]:
    """Return the index of a folder, or those of a glob of folders."""
    if is_remote(folder):
        return [ShardIndex.parse(folder, store.read_small(place_of(folder, INDEX_NAME)))]
    if not glob.has_magic(folder) or Path(folder).is_dir():
        return [ShardIndex.load(folder)]
    folders = sorted(path for path in glob.glob(folder) if (Path(path) / INDEX_NAME).is_file())
    if not folders:
        raise ShardError(f"{folder} matches no folder of shards (one with an {INDEX_NAME}).")
    return [ShardIndex.load(path) for path in folders]


def _only(tars: list[str], folder: str, indices: list[ShardIndex]) -> list[ShardIndex]:
    """Return the indices with only the shards that one of ``tars``, names or globs, matches; each must match one.

    Raises:
        ShardError: A name or glob matches no listed shard.
    """
    if "*" in tars:
        return indices
    for tar in tars:
        if not any(fnmatchcase(shard.name, tar) for index in indices for shard in index.shards):
            groups = ", ".join(sorted({group for index in indices for group in index.groups}))
            raise ShardError(f"No shard that {place_of(folder, INDEX_NAME)} lists matches {tar}. Its groups: {groups}.")
    kept = [
        dataclasses.replace(index, shards=tuple(shard for shard in index.shards if any(fnmatchcase(shard.name, tar) for tar in tars)))
        for index in indices
    ]
    return [index for index in kept if index.shards]


def _join(indices: list[ShardIndex]) -> ShardIndex:
    homes: dict[str, str] = {}
    for index in indices:
        for shard in index.shards:
            if shard.name in homes:
                raise ShardError(f"{homes[shard.name]} and {index.folder} both have a shard {shard.name}. Convert both into one folder.")
            homes[shard.name] = str(index.folder)
    if len({_latents_of(index) for index in indices}) > 1:
        contents = "; ".join(f"{index.folder} holds {_latents_of(index) or 'only images'}" for index in indices)
        raise ShardError(f"These folders cannot form one batch: {contents}. Encode all with one autoencoder and one crop.")
    shards = tuple(sorted((shard for index in indices for shard in index.shards), key=lambda shard: shard.name))
    return ShardIndex(", ".join(str(index.folder) for index in indices), shards, indices[0].options, homes)


def _latents_of(index: ShardIndex) -> str | None:
    """Describe the properties that cached latents of one batch must share; None if there are no latents."""
    latents = index.options.get("latents")
    if latents is None:
        return None
    images = " with images" if latents["images"] else ""
    return f"latents of {latents['crop']} pixels by the autoencoder of sha256 {latents['codec']['sha256']}{images}"
