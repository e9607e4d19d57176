"""Options of a conversion; the same options and the same source give the same bytes."""

import dataclasses
from dataclasses import dataclass
from typing import Any

TILE_CODECS = ("png", "webp")
CHECKS = ("decode", "header")


@dataclass(frozen=True)
class Options:
    """Options that decide how pairs become shards.

    Args:
        limit: Below 1: fraction of each group's pairs, at least one pair; from 1 on: number of pairs of each group; None for all.
        seed: Seed of the order inside each group.
        shard_size: Approximate size of a shard in MiB; see `datamodules.conversion.plan`.
        tile: Side in pixels of the tiles that images are cut into; None keeps the images as they are.
        tile_codec: Lossless format of the tiles, ``png`` or ``webp``.
        check: ``decode`` reads every image to its last pixel, ``header`` only its size.

    Raises:
        ValueError: An option is out of range.
    """

    limit: float | None = None
    seed: int = 0
    shard_size: int = 256
    tile: int | None = None
    tile_codec: str = "png"
    check: str = "decode"

    def __post_init__(self) -> None:
        if self.limit is not None and (self.limit <= 0 or (self.limit > 1 and self.limit != int(self.limit))):
            raise ValueError(
                f"limit is {self.limit}; give a fraction of each group between 0 and 1, or a whole number of pairs of each group from 1 on."
            )
        if self.shard_size < 1:
            raise ValueError(f"shard_size is {self.shard_size} MiB; it must be at least 1.")
        if self.tile is not None and self.tile < 16:
            raise ValueError(f"tile is {self.tile} pixels; it must be at least 16.")
        if self.tile_codec not in TILE_CODECS:
            raise ValueError(f"tile_codec is {self.tile_codec!r}; it must be one of {', '.join(TILE_CODECS)}.")
        if self.check not in CHECKS:
            raise ValueError(f"check is {self.check!r}; it must be one of {', '.join(CHECKS)}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name, for JSON."""
        return dataclasses.asdict(self)

    def taken(self, pairs: int) -> int:
        """Return how many of a group's ``pairs`` to take."""
        if self.limit is None:
            return pairs
        return max(1, int(pairs * self.limit)) if self.limit < 1 else min(pairs, int(self.limit))
