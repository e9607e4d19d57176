"""Reading shards: sequentially from any sample on, or one sample from its bytes.

Samples are those that webdataset would group. A tar may be a stranger's: nothing is unpacked to disk, links, devices and sparse files are
refused, so are names that lead out of a folder, and of the members only images, json and safetensors are read. Nothing is unpickled.
"""

import io
import itertools
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datamodules.shards.index import ShardError
from datamodules.shards.sidecar import Sidecar
from datamodules.shards.writer import LATENTS_NAME

_KEY = re.compile(r"(?P<key>(?:.*/|)[^./]+)\.(?P<part>[^/]*)")
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True)
class RawSample:
    """A sample as it is stored: still encoded, so that what waits in a queue is small. A missing part is None.

    ``problem`` says why nothing of the sample could be read, where that is so; such a problem is its whole shard's.
    """

    key: str
    shard: str
    lq: bytes | None
    gt: bytes | None
    json: bytes | None
    problem: str | None = None
    latents: bytes | None = None

    @property
    def place(self) -> str:
        """Name the sample for messages, its shard and its key; or only the shard where that is at fault."""
        return self.shard if self.problem else f"{self.key} in {self.shard}"

    @classmethod
    def missing(cls, key: str, shard: str, problem: str) -> "RawSample":
        """A sample of which nothing could be read."""
        return cls(key, shard, None, None, None, problem)


def read_shard(path: Path, *, samples: int, first: int = 0, limit: int | None = None) -> Iterator[RawSample]:
    """Yield the samples ``first`` to ``samples`` − 1 of a tar in stored order, at most ``limit`` of them, without decoding.

    Starting past the first sample takes one seek, with the offset from the sidecar.

    Args:
        path: The tar.
        samples: How many samples the index says there are to read.
        first: Number of the first sample to yield.
        limit: How many to yield at most; None is all that remain.

    Raises:
        ShardError: The tar cannot be opened, is not a tar, or ends before its ``samples``-th sample.
    """
    wanted = samples - first if limit is None else min(limit, samples - first)
    offset = Sidecar.load(path).spans[first].offset if first and wanted else 0
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed by the block below
    except OSError as error:
        raise ShardError(f"The shard {path} cannot be opened ({error}). Copy it again or write the folder anew.") from error
    found = 0
    with stream:
        if offset:
            stream.seek(offset)
        try:
            for sample in itertools.islice(_group(stream, str(path)), wanted):
                yield sample
                found += 1
        except tarfile.TarError as error:
            raise ShardError(f"The shard {path} is damaged after sample {first + found} ({error}). Copy it again.") from error
    if found < wanted:
        raise ShardError(
            f"The shard {path} ends after {first + found} samples but the index lists {samples}: it was cut short. "
            "Copy it again or write the folder anew."
        )


def parse_sample(data: bytes, shard: str) -> RawSample:
    """Return the one sample that lies in a span of a tar's bytes.

    Raises:
        ShardError: The bytes do not hold exactly one sample.
    """
    try:
        samples = list(_group(io.BytesIO(data), shard))
    except tarfile.TarError as error:
        raise ShardError(f"The shard {shard} is damaged ({error}). Copy it again or write the folder anew.") from error
    if len(samples) != 1:
        raise ShardError(f"A span of the shard {shard} holds {len(samples)} samples: its sidecar belongs to another tar. Write it anew.")
    return samples[0]


def read_members(stream: BinaryIO, shard: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and bytes of the files in an uncompressed tar, front to back; None in place of the bytes of those not ``wanted``.

    Raises:
        ShardError: A member is a link, a device or a sparse file, or its name is absolute or holds ``..``.
        tarfile.TarError: It is no tar, or damaged.
    """
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if member.isdir():
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                kind = _KINDS.get(member.type, "no plain file")
                raise ShardError(f"{member.name!r} in the shard {shard} is {kind}; shards hold plain files alone. Do not use this shard.")
            if member.name.startswith("/") or "\\" in member.name or ".." in member.name.split("/"):
                raise ShardError(f"{member.name!r} in the shard {shard} leads out of its folder. Do not use this shard.")
            yield member.name, tar.extractfile(member).read() if wanted(member.name) else None
            tar.members = []


def _group(stream: BinaryIO, shard: str) -> Iterator[RawSample]:
    """Group a tar's members to samples, by what is before the first dot of a file's name."""
    key, parts = None, {}
    for name, data in read_members(stream, shard, _is_part):
        if (split := _KEY.fullmatch(name)) is None:
            continue
        if split["key"] != key:
            if key is not None:
                yield _sample(key, shard, parts)
            key, parts = split["key"], {}
        part = split["part"].lower()
        if part in parts:
            raise ShardError(f"The shard {shard} holds {name} twice. Write it anew.")
        parts[part] = data
    if key is not None:
        yield _sample(key, shard, parts)


def _is_part(name: str) -> bool:
    """Whether a member is a part of a sample that is ever looked at."""
    split = _KEY.fullmatch(name)
    part = split["part"].lower() if split else ""
    return part in ("json", LATENTS_NAME) or part.startswith(("lq.", "gt."))


def _sample(key: str, shard: str, parts: dict[str, bytes | None]) -> RawSample:
    return RawSample(key, shard, _image(parts, "lq"), _image(parts, "gt"), parts.get("json"), latents=parts.get(LATENTS_NAME))


def _image(parts: dict[str, bytes | None], side: str) -> bytes | None:
    """Return an image's bytes whatever its suffix says: the format is read from its first bytes when it is decoded."""
    return next((data for name, data in parts.items() if name.startswith(f"{side}.")), None)
