"""Tars of shards: write one whose bytes depend only on its samples; read it sequentially from any sample, or one sample from its bytes.

Samples are grouped as by webdataset. A tar may come from a stranger: nothing is unpacked to disk, links, devices, sparse files and names
that lead out of a folder are refused, and only members with images, json and safetensors are read. Nothing is unpickled.
"""

import hashlib
import io
import itertools
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.shards.index import SampleSpan, ShardEntry, ShardError, Sidecar
from mimdit.core.files import replace_when_whole

IMAGE_SUFFIXES = ("png", "jpg", "bmp", "tif", "webp")
"""Suffixes of stored images, by their format. Readers use the first bytes instead."""

LATENTS_NAME = "latents.safetensors"
"""Name of stored latents after the key; see `datamodules.latents`."""

_KEY = re.compile(r"(?P<key>(?:.*/|)[^./]+)\.(?P<part>[^/]*)")
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def shard_name(group: str, number: int) -> str:
    """Return the file name of the ``number``-th shard of a group."""
    return f"{group}-{number:06d}.tar"


def write_shard(path: str | Path, group: str, samples: Iterable[dict[str, Any]], rejects: Sequence[tuple[str, str]] = ()) -> Sidecar:
    """Write samples of one group as a tar and its sidecar, both atomically.

    A sample is ``{"__key__": "08Haze/0000012", "lq.png": bytes, "gt.jpg": bytes, "json": {...}}``, with `LATENTS_NAME` beside or instead of
    the images. No times, users or modes of this machine enter the tar, so equal samples give equal bytes, the same as from webdataset's
    ``TarWriter``, whose import costs seconds.

    Args:
        path: The tar.
        group: Group of all samples.
        samples: Samples in stored order.
        rejects: Names and reasons of pairs planned for this tar that are not in it, for the sidecar; read after all samples, so that the
            iterator of samples may add to it.

    Raises:
        ValueError: A key contains a dot or does not start with the group, or a sample lacks its json, or has
            neither one image of each side nor only latents.
    """
    path = Path(path)
    spans = []
    with replace_when_whole(path) as temporary:
        with open(temporary, "wb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for sample in samples:
                start = tar.offset
                for name, data in sorted(_parts(sample, group).items()):
                    _add(tar, f"{sample['__key__']}.{name}", data)
                spans.append(SampleSpan(sample["__key__"], start, tar.offset - start))
        with open(temporary, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        size = temporary.stat().st_size
    sidecar = Sidecar(ShardEntry(path.name, group, len(spans), size, checksum), tuple(spans), tuple(rejects))
    sidecar.save(path.parent)
    return sidecar


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    member.uname = member.gname = "bigdata"
    tar.addfile(member, io.BytesIO(data))


def _parts(sample: dict[str, Any], group: str) -> dict[str, bytes]:
    """Check a sample against the format and return its files by the name after the key."""
    key = sample["__key__"]
    if "." in key or not key.startswith(f"{group}/"):
        raise ValueError(
            f"The key {key!r} must start with {group + '/'!r} and contain no dot: webdataset takes the text after a dot for the suffix."
        )
    if not isinstance(sample.get("json"), dict):
        raise ValueError(f"The sample {key} has no json fields.")
    found = {side: sum(f"{side}.{suffix}" in sample for suffix in IMAGE_SUFFIXES) for side in ("lq", "gt")}
    for side, images in found.items():
        names = ", ".join(f"{side}.{suffix}" for suffix in IMAGE_SUFFIXES)
        if images != 1 and (any(found.values()) or LATENTS_NAME not in sample):
            raise ValueError(f"The sample {key} must hold exactly one {side} image: {names}.")
    parts = {name: data for name, data in sample.items() if not name.startswith("_")}
    return {**parts, "json": json.dumps(sample["json"], sort_keys=True).encode()}


@dataclass(frozen=True)
class RawSample:
    """A stored sample, still encoded to keep queues small. A missing part is None.

    If nothing of the sample could be read, ``problem`` is the reason, which concerns its whole shard.
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
        """Name of the sample for messages, its shard and key; only the shard if that has a problem."""
        return self.shard if self.problem else f"{self.key} in {self.shard}"

    @classmethod
    def missing(cls, key: str, shard: str, problem: str) -> "RawSample":
        """Return a sample of which nothing could be read."""
        return cls(key, shard, None, None, None, problem)


def read_shard(path: Path, *, samples: int, first: int = 0, limit: int | None = None) -> Iterator[RawSample]:
    """Yield the samples ``first`` to ``samples`` − 1 of a tar in stored order, at most ``limit`` of them, without decoding.

    Starting after the first sample takes one seek, to the offset in the sidecar.

    Args:
        path: The tar.
        samples: Number of samples in the index.
        first: Number of the first sample to yield.
        limit: Maximum number of samples; None for all remaining ones.

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
    """Return the single sample in a span of a tar's bytes.

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
    """Yield name and bytes of the files in an uncompressed tar, front to back, with None for the bytes of those not ``wanted``.

    Raises:
        ShardError: A member is a link, a device or a sparse file, or its name is absolute or contains ``..``.
        tarfile.TarError: The stream is not a tar, or is damaged.
    """
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if member.isdir():
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                kind = _KINDS.get(member.type, "not a plain file")
                raise ShardError(f"{member.name!r} in the shard {shard} is {kind}; shards hold only plain files. Do not use this shard.")
            if member.name.startswith("/") or "\\" in member.name or ".." in member.name.split("/"):
                raise ShardError(f"{member.name!r} in the shard {shard} leads out of its folder. Do not use this shard.")
            yield member.name, _content(tar, member) if wanted(member.name) else None
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # without it memory grows with the tar; its types lack it


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "a plain file has content"
    return file.read()


def _group(stream: BinaryIO, shard: str) -> Iterator[RawSample]:
    """Group a tar's members into samples, by the part of the file name before its first dot."""
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
    """Return true for a member of a sample that is read."""
    split = _KEY.fullmatch(name)
    part = split["part"].lower() if split else ""
    return part in ("json", LATENTS_NAME) or part.startswith(("lq.", "gt."))


def _sample(key: str, shard: str, parts: dict[str, bytes | None]) -> RawSample:
    return RawSample(key, shard, _image(parts, "lq"), _image(parts, "gt"), parts.get("json"), latents=parts.get(LATENTS_NAME))


def _image(parts: dict[str, bytes | None], side: str) -> bytes | None:
    """Return an image's bytes, with any suffix: decoding detects the format from the first bytes."""
    return next((data for name, data in parts.items() if name.startswith(f"{side}.")), None)
