"""Choice of a few samples to display, spread over the degradation groups and the same every time."""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from typing import Any


class SpreadOverGroups:
    """Keep at most ``limit`` items from as many groups as possible, chosen by a hash of their keys.

    The choice depends neither on the order of the samples nor on the batch size. Groups show different scenes even if all of them hold the
    same ones. With more groups than items, evenly spaced groups in the order of their names are shown.

    Args:
        limit: Maximum number of items chosen, at least 1. While collecting, one item per group is held if there are more groups.

    Raises:
        ValueError: ``limit`` is below 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} images would show nothing; set at least 1")
        self.limit = limit
        self._kept: dict[str, list[tuple[int, str, Any]]] = {}

    def wants(self, group: str, key: str) -> bool:
        """Return true if `add` would keep this sample now, so that its image is worth making."""
        kept = self._kept.get(group, [])
        return len(kept) < self._per_group(group) or (_rank(group, key), key) < kept[-1][:2]

    def add(self, group: str, key: str, item: Any) -> None:
        """Keep ``item``, and drop items beyond the limit."""
        room = self._per_group(group)
        insort(self._kept.setdefault(group, []), (_rank(group, key), key, item), key=lambda entry: entry[:2])
        for entries in self._kept.values():
            del entries[room:]

    def _per_group(self, group: str) -> int:
        """Return how many items each group may keep once ``group`` is among them."""
        return math.ceil(self.limit / len(self._kept.keys() | {group}))

    def chosen(self) -> list[tuple[str, str, Any]]:
        """Return ``(group, key, item)`` in the order of the group names."""
        groups = sorted(self._kept)
        if len(groups) > self.limit:
            groups = [groups[int((index + 0.5) * len(groups) / self.limit)] for index in range(self.limit)]
        rounds = [(place, group) for group in groups for place in range(len(self._kept[group]))]
        taken = sorted(sorted(rounds)[: self.limit], key=lambda entry: (entry[1], entry[0]))
        return [(group, *self._kept[group][place][1:]) for place, group in taken]


def _rank(group: str, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{group}/{key}".encode(), digest_size=8).digest())
