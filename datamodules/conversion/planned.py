"""What is planned, in the words that every process of a conversion understands; it loads no more than those need that write shards."""

from dataclasses import dataclass
from typing import Any

from datamodules.sources.pairing import SourcePair


@dataclass(frozen=True)
class PlannedShard:
    """One shard to write: its file name, its group and its pairs in stored order."""

    name: str
    group: str
    pairs: tuple[SourcePair, ...]


@dataclass(frozen=True)
class Plan:
    """A whole conversion.

    ``header`` says what it was made of: ``schema``, ``source`` (how the user named it), ``layout``, ``root``, ``options``,
    ``fingerprint``, ``files`` (volumes and their bytes), ``rejects``, ``skipped``, ``groups`` (of each its atoms, and how many pairs were
    listed and how many pairs, bytes and shards are planned) and ``versions``.
    """

    header: dict[str, Any]
    shards: tuple[PlannedShard, ...]


def key_of(group: str, stem: str) -> str:
    """Return the key of a pair; webdataset takes what follows a dot for the suffix, so it holds none."""
    return f"{group}/{stem.replace('.', '_')}"


def pair_bytes(pair: SourcePair) -> int:
    """Bytes of both images of a pair as they are."""
    return pair.lq.size + pair.gt.size
