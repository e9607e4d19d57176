"""Folders of degraded images beside folders of truths: GoPro, HIDE, RealBlur, LOL, Rain100L, DA-CLIP's ten and most others."""

from pathlib import Path

from datamodules.sources.layouts import visible_folders
from datamodules.test_sets.base import Benchmark, Contents
from datamodules.test_sets.degradations import degradations_of
from datamodules.test_sets.files import pair_folders

SIDES = (
    ("input", "target"), ("LQ", "GT"), ("low", "high"), ("low", "normal"), ("blur", "sharp"), ("hazy", "gt"), ("rainy", "gt"),
    ("IN", "GT"), ("synthetic", "gt"), ("noisy", "clean"),
)  # fmt: skip
"""Names of the two folders in public sets, in any case."""


class PairFolders(Benchmark):
    """Two folders of one root, or of each of its sub-folders, which are the groups then.

    A root with ``input`` and ``target`` (Restormer's ``test/GoPro``), or one whose sub-folders have them (Restormer's ``test``, DA-CLIP's
    ``val``); LOL's ``eval15``, ``Test`` or ``Real_captured/Test``. Images are paired by name, suffixes aside.

    Args:
        root: The folder.
        sides: Names of the folders of degraded images and of truths; null looks for the usual ones.
        truth_name: A regular expression and its replacement that make a truth's name of an image's, where they differ: ``["_.*", ""]`` for
            haze, ``["^low", "normal"]`` for LOL v2 as it was released.
        degradations: What degraded the images; null goes by the names of root and groups.
        **options: As in `Benchmark`.
    """

    def __init__(
        self,
        root: str,
        *,
        sides: tuple[str, str] | None = None,
        truth_name: tuple[str, str] | None = None,
        degradations: list[str] | None = None,
        **options,
    ) -> None:
        super().__init__(root, **options)
        self.sides, self.truth_name, self.degradations = sides, truth_name, degradations

    def find(self) -> Contents:
        """Pair the folders of the root, or else of its sub-folders."""
        own = self._sides_in(self.root)
        homes = {self.root: own} if own else {folder: sides for folder in visible_folders(self.root) if (sides := self._sides_in(folder))}
        if not homes:
            looked = [self.sides] if self.sides else SIDES
            raise ValueError(
                f"{self.root} and its sub-folders hold no two folders of degraded images and truths; looked for "
                f"{', '.join(f'{lq}/ and {gt}/' for lq, gt in looked)}. Give the folder above them, or name them: sides: [input, target]"
            )
        contents = Contents()
        for home, (lq, gt) in homes.items():
            told = degradations_of(home.name) or degradations_of(self.root.name) or degradations_of(self.root.resolve().parent.name)
            told = told if self.degradations is None else tuple(self.degradations)
            contents += pair_folders(home.resolve().name, lq, gt, told, self.truth_name)
        return contents

    def _sides_in(self, folder: Path) -> tuple[Path, Path] | None:
        """The folders of degraded images and of truths in a folder.

        Raises:
            ValueError: There are several such pairs.
        """
        names = {path.name.lower(): path for path in visible_folders(folder)}
        wanted = [self.sides] if self.sides else SIDES
        pairs = [(names[lq.lower()], names[gt.lower()]) for lq, gt in wanted if {lq.lower(), gt.lower()} <= names.keys()]
        if len(pairs) > 1:
            found = "; ".join(f"{lq.name}/ and {gt.name}/" for lq, gt in pairs)
            raise ValueError(f"{folder} holds more than one pair of folders ({found}); say which: sides: [{pairs[0][0].name}, …]")
        return pairs[0] if pairs else None
