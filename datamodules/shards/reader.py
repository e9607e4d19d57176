"""Reading shards through webdataset: sequentially from any sample on, or one sample from its bytes."""

import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datamodules.shards.index import ShardError
from datamodules.shards.sidecar import Sidecar
from datamodules.shards.writer import LATENTS_NAME


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


def _group(stream: BinaryIO, shard: str) -> Iterable[RawSample]:
    """Group a tar's members to samples."""
    # Not at the top: webdataset imports torch, which the processes that write shards do without.
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for sample in group_by_keys(tar_file_expander([{"url": shard, "stream": stream}])):
        images = _image(sample, "lq"), _image(sample, "gt")
        yield RawSample(sample["__key__"], shard, *images, sample.get("json"), latents=sample.get(LATENTS_NAME))


def _image(sample: dict[str, bytes], side: str) -> bytes | None:
    """Return an image's bytes whatever its suffix says: the format is read from its first bytes when it is decoded."""
    return next((data for name, data in sample.items() if name.startswith(f"{side}.")), None)
