"""Base of test sets: a list of images to restore, most with a ground truth, and the images without a partner."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Images = tuple[np.ndarray, np.ndarray | None]
"""The degraded image and its ground truth, if it has one: uint8 RGB ``[H, W, 3]`` of one size."""


@dataclass(frozen=True)
class Entry:
    """An image of a test set.

    Attributes:
        group: Degradation group.
        key: Name that is unique in its group.
        degradations: Names of its degradations, `mimdit.core.batch.ATOMS` and others.
        load: Function that reads and decodes it; it can be pickled.
    """

    group: str
    key: str
    degradations: tuple[str, ...]
    load: Callable[[], Images]


@dataclass
class Contents:
    """The images of a test set, and a line for each image without a partner."""

    entries: list[Entry] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Contents") -> "Contents":
        self.entries += other.entries
        self.unpaired += other.unpaired
        return self


class TestSet(ABC):
    """A test set in one layout.

    Args:
        root: Folder of the test set.
        groups: Groups to evaluate; null is all.
        keys: Regular expression; only images whose keys contain it are evaluated, such as ``severity(080|100)``; null is all.
        crop: Cut input and truth centrally to multiples of this many pixels before anything else, as PromptIR's protocol does with 16; null
            is the layout's own protocol, 1 leaves the images whole.
        metrics: Further metrics, for this test set only.
        allow_unpaired: If true, evaluate the pairs although some images have no partner; those are listed in the results.

    Raises:
        ValueError: ``crop`` is below 1.
    """

    __test__ = False  # pytest collects classes of this name

    CROP = 1
    """Cropping of the layout's own protocol."""

    def __init__(
        self,
        root: str,
        *,
        groups: list[str] | None = None,
        keys: str | None = None,
        crop: int | None = None,
        metrics: list[str] | None = None,
        allow_unpaired: bool = False,
    ) -> None:
        self.root, self.groups, self.metrics, self.allow_unpaired = Path(root), groups, metrics or [], allow_unpaired
        self.keys = None if keys is None else re.compile(keys)
        self.crop = self.CROP if crop is None else crop
        if self.crop < 1:
            raise ValueError(f"crop={crop} of {root} must be at least 1; 1 leaves images whole")

    @abstractmethod
    def find(self) -> Contents:
        """List the images of all groups under the root.

        Raises:
            ValueError: The root does not have this layout.
        """

    @cached_property
    def contents(self) -> Contents:
        """The images of the chosen groups, in their order.

        Raises:
            ValueError: The root is missing or has another layout, lacks a group, or holds no chosen image.
        """
        if not self.root.exists():
            raise ValueError(f"{self.root} does not exist; give the folder that holds the test set")
        found = self.find()
        if self.groups is not None:
            present = {entry.group for entry in found.entries}
            if absent := sorted(set(self.groups) - present):
                raise ValueError(f"{self.root} has no group {', '.join(absent)}; it has {', '.join(sorted(present))}")
            found = Contents([entry for entry in found.entries if entry.group in self.groups], found.unpaired)
        if self.keys is not None:
            found = Contents([entry for entry in found.entries if self.keys.search(entry.key)], found.unpaired)
        if not found.entries:
            unpaired = f"; without a partner: {'; '.join(found.unpaired[:5])}" if found.unpaired else ""
            raise ValueError(f"{self.root} holds no image in the layout of {type(self).__name__}, or none with the chosen keys{unpaired}")
        (name, times), *_ = Counter((entry.group, entry.key) for entry in found.entries).most_common(1)
        assert times == 1, f"{name} is listed {times} times"
        return found

    def protocol(self) -> dict[str, Any]:
        """Return the settings that its numbers depend on, for the results."""
        keys = None if self.keys is None else self.keys.pattern
        return {"layout": type(self).__name__, "root": str(self.root), "groups": self.groups, "keys": keys, "crop": self.crop}


Benchmark = TestSet
"""Former name of `TestSet`, for users' own subclasses."""
