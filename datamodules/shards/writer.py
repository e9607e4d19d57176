"""Writing one shard: a tar whose bytes depend on its samples alone, then its sidecar."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import webdataset

from datamodules.shards.index import ShardEntry
from datamodules.shards.sidecar import SampleSpan, Sidecar
from mimdit.files import replace_when_whole

IMAGE_SUFFIXES = ("png", "jpg")


def shard_name(group: str, number: int) -> str:
    """Return the file name of the ``number``-th shard of a group."""
    return f"{group}-{number:06d}.tar"


def write_shard(path: str | Path, group: str, samples: Iterable[dict[str, Any]]) -> Sidecar:
    """Write samples of one group as a tar and its sidecar, both under temporary names until they are whole.

    A sample is ``{"__key__": "08Haze/0000012", "lq.png": bytes, "gt.jpg": bytes, "json": {...}}``. No times, users or modes of this
    machine enter the tar, so equal samples give equal bytes.

    Raises:
        ValueError: A key holds a dot or does not start with the group, or a sample lacks one of its three parts.
    """
    path = Path(path)
    spans = []
    with replace_when_whole(path) as temporary:
        with open(temporary, "wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as tar:
            for sample in samples:
                start = tar.tarstream.offset
                tar.write(_checked(sample, group))
                spans.append(SampleSpan(sample["__key__"], start, tar.tarstream.offset - start))
        with open(temporary, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        size = temporary.stat().st_size
    sidecar = Sidecar(ShardEntry(path.name, group, len(spans), size, checksum), tuple(spans))
    sidecar.save(path.parent)
    return sidecar


def _checked(sample: dict[str, Any], group: str) -> dict[str, Any]:
    """Check a sample against the format and encode its json."""
    key = sample["__key__"]
    if "." in key or not key.startswith(f"{group}/"):
        raise ValueError(
            f"The key {key!r} must start with {group + '/'!r} and hold no dot: webdataset takes what follows a dot for the suffix."
        )
    if not isinstance(sample.get("json"), dict):
        raise ValueError(f"The sample {key} has no json fields.")
    for side in ("lq", "gt"):
        if sum(f"{side}.{suffix}" in sample for suffix in IMAGE_SUFFIXES) != 1:
            raise ValueError(f"The sample {key} must hold exactly one {side} image, {side}.png or {side}.jpg.")
    return {**sample, "json": json.dumps(sample["json"], sort_keys=True).encode()}
