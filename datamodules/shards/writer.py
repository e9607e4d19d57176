"""Writing one shard: a tar whose bytes depend on its samples alone, then its sidecar."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.shards.index import ShardEntry
from datamodules.shards.sidecar import SampleSpan, Sidecar
from mimdit.core.files import replace_when_whole

IMAGE_SUFFIXES = ("png", "jpg", "bmp", "tif", "webp")
"""What the name of a stored image may end with; it tells the format. Readers go by the first bytes instead."""

LATENTS_NAME = "latents.safetensors"
"""What the name of stored latents is after the key; see `datamodules.latents`."""


def shard_name(group: str, number: int) -> str:
    """Return the file name of the ``number``-th shard of a group."""
    return f"{group}-{number:06d}.tar"


def write_shard(path: str | Path, group: str, samples: Iterable[dict[str, Any]], rejects: Sequence[tuple[str, str]] = ()) -> Sidecar:
    """Write samples of one group as a tar and its sidecar, both under temporary names until they are whole.

    A sample is ``{"__key__": "08Haze/0000012", "lq.png": bytes, "gt.jpg": bytes, "json": {...}}``, with `LATENTS_NAME` beside the images
    or in their place. No times, users or modes of this machine enter the tar, so equal samples give equal bytes: those that webdataset's
    ``TarWriter`` gives, whose import costs seconds.

    Args:
        path: The tar.
        group: The group of all its samples.
        samples: In the order to store them.
        rejects: Names and reasons of what was meant for this tar and is not in it, for the sidecar; read when all samples are written,
            so what makes the samples may add to it.

    Raises:
        ValueError: A key holds a dot or does not start with the group, or a sample lacks its json, or an image where it has no latents.
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
    """Check a sample against the format and return its files by what follows the key."""
    key = sample["__key__"]
    if "." in key or not key.startswith(f"{group}/"):
        raise ValueError(
            f"The key {key!r} must start with {group + '/'!r} and hold no dot: webdataset takes what follows a dot for the suffix."
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
