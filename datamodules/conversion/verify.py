"""Verification of a folder of shards: read it byte by byte, and compare it with its index, sidecars and samples."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.conversion.images import BadImageError, inspect_image
from datamodules.shards import INDEX_NAME, LATENTS_NAME, SampleSpan, ShardEntry, ShardError, ShardIndex, Sidecar
from datamodules.shards.latents import unpack_latents
from datamodules.shards.process_pool import in_processes
from datamodules.shards.tar import read_members


@dataclass(frozen=True)
class ShardCheck:
    """One shard to read again; if ``decode`` is true, its images are decoded too."""

    folder: Path
    entry: ShardEntry
    decode: bool


def read_index(folder: Path) -> ShardIndex:
    """Read the index of a folder without checking its shards.

    Raises:
        ShardError: The index is missing or damaged.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ShardError(f"{path} is missing, so there is nothing to compare the shards with. Let the conversion finish, or finalize it.")
    return ShardIndex.parse(folder, path.read_bytes())


def verify(index: ShardIndex, *, decode: bool = False, workers: int = 1) -> Iterator[tuple[ShardEntry, list[str]]]:
    """Read every shard of an index again, and yield it with a description of each problem."""
    checks = [ShardCheck(Path(index.folder), entry, decode) for entry in index.shards]
    for check, problems in in_processes(check_shard, checks, workers):
        yield check.entry, problems


def check_shard(check: ShardCheck) -> list[str]:
    """Return the problems of a shard: its tar's size and checksum, its sidecar, its samples, their checksums and images."""
    tar, entry = check.folder / check.entry.name, check.entry
    if not tar.is_file():
        return ["the tar is missing"]
    problems = []
    if (size := tar.stat().st_size) != entry.bytes:
        problems.append(f"the tar has {size} bytes, the index {entry.bytes}")
    spans: tuple[SampleSpan, ...] = ()
    try:
        sidecar = Sidecar.load(tar)
        spans = sidecar.spans
        if sidecar.entry != entry:
            problems.append(f"the sidecar describes {sidecar.entry}, the index {entry}")
        if len(spans) != entry.samples:
            problems.append(f"the sidecar lists {len(spans)} samples, the index {entry.samples}")
    except ShardError as error:
        problems.append(str(error))
    digest = hashlib.sha256()
    with open(tar, "rb") as file:
        for span in spans:
            if span.offset != file.tell():
                problems.append(f"{span.key} is at byte {file.tell()}, in the sidecar at {span.offset}")
                break
            data = file.read(span.size)
            digest.update(data)
            problems += [f"{span.key}: {problem}" for problem in _sample_problems(span, data, entry.group, check.decode)]
        _digest_rest(file, digest)
    if digest.hexdigest() != entry.sha256:
        problems.append("the tar's checksum differs from the index")
    return problems


def _digest_rest(file: BinaryIO, digest: Any) -> None:
    while chunk := file.read(1 << 20):
        digest.update(chunk)


def _sample_problems(span: SampleSpan, data: bytes, group: str, decode: bool) -> Iterator[str]:
    """Yield the problems of one sample."""
    try:
        read = read_members(io.BytesIO(data), span.key, lambda name: True)
        members = {name: content for name, content in read if content is not None}
    except (tarfile.TarError, OSError, ShardError) as error:
        yield f"its span is not part of a tar ({error})"
        return
    parts = {name.removeprefix(f"{span.key}."): content for name, content in members.items()}
    latents = parts.get(LATENTS_NAME)
    sides = {name.partition(".")[0]: content for name, content in parts.items() if name not in ("json", LATENTS_NAME)}
    known = 1 + len(sides) + (latents is not None)
    complete = sides.keys() == {"lq", "gt"} or (latents is not None and not sides)
    if len(parts) != known or "json" not in parts or not complete:
        yield f"its span holds {', '.join(sorted(members)) or 'nothing'}"
        return
    try:
        fields = json.loads(parts["json"])
        stored = {"group": fields["group"], "width": fields["width"], "height": fields["height"]}
    except (ValueError, KeyError, TypeError) as error:
        yield f"its json is damaged ({type(error).__name__}: {error})"
        return
    if stored["group"] != group:
        yield f"its json has group {stored['group']}, the index {group}"
    for side, content in sides.items():
        if fields.get(f"{side}_sha256", found := hashlib.sha256(content).hexdigest()) != found:  # the quickstart stores no checksums
            yield f"the {side} image's checksum differs from its json"
        if decode:
            yield from _image_problems(side, content, stored)
    if latents is not None:
        if fields.get("latents_sha256") != hashlib.sha256(latents).hexdigest():
            yield "the latents' checksum differs from their json"
        if decode:
            yield from _latents_problems(latents)


def _latents_problems(content: bytes) -> Iterator[str]:
    try:
        unpack_latents(content)
    except ValueError as error:
        yield f"the latents cannot be read: {error}"


def _image_problems(side: str, content: bytes, stored: dict[str, Any]) -> Iterator[str]:
    try:
        facts = inspect_image(content, "decode")
    except BadImageError as error:
        yield f"the {side} image cannot be decoded: {error}"
        return
    if (facts.width, facts.height) != (stored["width"], stored["height"]):
        yield f"the {side} image is {facts.width}x{facts.height}, in its json {stored['width']}x{stored['height']} (width x height)"
