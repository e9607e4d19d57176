"""Which pair goes into which shard: settled before any image is read, by the listing, the sizes, the seed and the options alone."""

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import cv2
import numpy as np
import PIL

from datamodules.conversion.options import Options
from datamodules.conversion.planned import Plan, PlannedShard, key_of, pair_bytes
from datamodules.degradations import atoms_of_group
from datamodules.rng import named_rng
from datamodules.shards import SCHEMA, shard_name
from datamodules.sources.members import Member
from datamodules.sources.pairing import Listing, Reject, SourcePair

TILE_GROWTH = {"png": (3.0, 1.4), "webp": (1.6, 0.8)}
"""Stored bytes of an image's tiles over the bytes of the image, by codec: of one named as a JPEG, and of any other.

Only to keep shards of tiles near the wanted size. Of three of FoundIR's test pairs, cut into 512 pixels (the overlaps at the borders are a
third of it), JPEGs took 3.0 times their bytes as PNG and 1.6 as WebP, PNGs 1.3 to 1.5 and 0.7 to 0.95. (ours)
"""


def make_plan(listing: Listing, options: Options, source: dict[str, Any] | None = None) -> Plan:
    """Plan the shards of a listing.

    Each group's pairs are put in an order drawn from (seed, group), so that neighbours in a scene part company. Of that order the first
    are taken where there is a limit, so a limited conversion's shards are the first of the whole one's (the last may be cut short).
    Then the order is cut into shards: a pair opens the next one when the bytes would pass the wanted size.

    Args:
        listing: The source's pairs.
        options: How to convert.
        source: How the user named the source, for the record.

    Raises:
        ValueError: There are no pairs, or a group's name is none or does not tell its degradations.
    """
    shards: list[PlannedShard] = []
    groups: dict[str, dict[str, Any]] = {}
    rejects = list(listing.rejects)
    for group, listed in _by_group(listing.pairs):
        if "." in group or "/" in group:
            raise ValueError(f"The group {group!r} holds a dot or a slash, which shards cannot. Name it otherwise.")
        pairs, doubles = _without_doubles(group, listed)
        rejects += doubles
        order = named_rng(options.seed, group).permutation(len(pairs))[: options.taken(len(pairs))]
        planned = _cut([pairs[place] for place in order], options)
        shards += [PlannedShard(shard_name(group, number), group, tuple(each)) for number, each in enumerate(planned)]
        groups[group] = {
            "atoms": list(atoms_of_group(group)),
            "listed": len(listed),
            "pairs": len(order),
            "bytes": sum(pair_bytes(pair) for each in planned for pair in each),
            "shards": len(planned),
        }
    if not shards:
        raise ValueError(f"{listing.root} holds no pair that can be converted ({len(rejects)} files found no partner).")
    header = {
        "schema": SCHEMA,
        "source": source or {},
        "layout": listing.layout,
        "root": str(listing.root),
        "options": options.to_dict(),
        "fingerprint": listing.fingerprint,
        "files": dict(listing.files),
        "rejects": sorted([reject.group, reject.name, reject.reason] for reject in rejects),
        "skipped": list(listing.skipped),
        "groups": groups,
        "versions": versions(),
    }
    return Plan(header, tuple(shards))


def versions() -> dict[str, str]:
    """Versions of what the bytes of a conversion may depend on."""
    return {
        "mimdit": metadata.version("mimdit"),
        "python": platform.python_version(),
        "cv2": cv2.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _by_group(pairs: Sequence[SourcePair]) -> Iterator[tuple[str, list[SourcePair]]]:
    groups: dict[str, list[SourcePair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    yield from sorted(groups.items())


def _without_doubles(group: str, pairs: list[SourcePair]) -> tuple[list[SourcePair], list[Reject]]:
    """Split pairs into those of a key of their own and those whose key an earlier stem has already: ``a.b`` after ``a_b``."""
    stems: dict[str, str] = {}
    kept, doubles = [], []
    for pair in sorted(pairs, key=lambda pair: pair.stem):
        first = stems.setdefault(key_of(group, pair.stem), pair.stem)
        if first == pair.stem:
            kept.append(pair)
        else:
            doubles.append(Reject(group, pair.stem, f"its key {key_of(group, pair.stem)} is also that of the stem {first!r}"))
    return kept, doubles


def _cut(pairs: list[SourcePair], options: Options) -> list[list[SourcePair]]:
    """Cut pairs, in their order, into shards of about the wanted size."""
    target = options.shard_size * 2**20
    shards: list[list[SourcePair]] = []
    filled = 0.0
    for pair in pairs:
        size = _weight(pair.lq, options) + _weight(pair.gt, options)
        if not shards or filled + size > target:
            shards.append([])
            filled = 0.0
        shards[-1].append(pair)
        filled += size
    return shards


def _weight(member: Member, options: Options) -> float:
    """Bytes that a member will take in its shard; of tiles a rough guess."""
    if options.tile is None:
        return member.size
    jpeg, other = TILE_GROWTH[options.tile_codec]
    return member.size * (jpeg if member.name.lower().endswith((".jpg", ".jpeg")) else other)
