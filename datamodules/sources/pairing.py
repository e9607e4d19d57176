"""Pairs of stored images, and the pairing of a group's images by stem."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.sources.members import Member

Side = Literal["GT", "LQ"]
SIDES: tuple[Side, ...] = ("GT", "LQ")
IMAGE_SUFFIXES = frozenset({"png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp"})
"""Suffixes of image names, in any case; the first bytes decide the actual format."""


@dataclass(frozen=True, slots=True)
class SourcePair:
    """A degraded image and its ground truth. The stem is unique in its group and may contain "/" and "."."""

    group: str
    stem: str
    lq: Member
    gt: Member


@dataclass(frozen=True, slots=True, order=True)
class Reject:
    """A listed name that is not a pair: group, stem and reason."""

    group: str
    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Pairs of a source.

    Args:
        root: The folder that all sources are relative to.
        layout: "archives", "group folders", "side folders", "list" or "pair folders".
        pairs: Sorted by group and stem.
        rejects: Sorted.
        files: Bytes of every volume of an archive and of a list, by path below ``root``; empty for folders.
        skipped: Skipped archives and folders with reasons, for readers of the plan.
    """

    root: Path
    layout: str
    pairs: tuple[SourcePair, ...]
    rejects: tuple[Reject, ...]
    files: Mapping[str, int]
    skipped: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the layout, the pairs, the rejects and the files, equal for equal sources in any place."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(json.dumps([pair.group, pair.stem, pair.lq.to_list(), pair.gt.to_list()]).encode())
        rejects = [[reject.group, reject.name, reject.reason] for reject in self.rejects]
        digest.update(json.dumps([self.layout, rejects, sorted(self.files.items())]).encode())
        return digest.hexdigest()


class FoundImage(NamedTuple):
    """An image that is not paired yet."""

    side: Side
    stem: str
    member: Member
    obstacle: str | None = None
    """Reason why it cannot be read, such as "encrypted"."""


def split_image_path(path: str) -> list[str] | None:
    """Return the parts of an image's path, the last without suffix; None for other files, hidden ones, and macOS's additions to a zip."""
    stem, dot, suffix = path.removeprefix("./").rpartition(".")
    if not dot or suffix.lower() not in IMAGE_SUFFIXES:
        return None
    parts = stem.split("/")
    hidden = stem.startswith(".") or "/." in stem
    return None if hidden or "" in parts or "__MACOSX" in parts else parts


def pair_by_stem(group: str, images: Iterable[FoundImage]) -> Iterator[SourcePair | Reject]:
    """Yield the pairs of a group sorted by stem; an incomplete, ambiguous or unreadable pair gives a `Reject`."""
    stems: dict[str, list[FoundImage]] = {}
    for image in images:
        stems.setdefault(image.stem, []).append(image)
    for stem, found in sorted(stems.items()):
        found.sort(key=lambda image: (image.side, image.member.name))
        reason = _reason_against(found)
        if reason:
            yield Reject(group, stem, reason)
        else:
            gt, lq = found
            yield SourcePair(group, stem, lq.member, gt.member)


def _reason_against(found: list[FoundImage]) -> str | None:
    for side in SIDES:
        names = [image.member.name for image in found if image.side == side]
        if not names:
            return f"no {side} image of this stem, only {', '.join(image.member.name for image in found)}"
        if len(names) > 1:
            return f"{len(names)} {side} images of this stem: {', '.join(names)}"
    return next((f"{image.member.name} is {image.obstacle}" for image in found if image.obstacle), None)
