"""CDD-11: eleven composite degradations of the same scenes (OneRestore, arXiv 2407.04621)."""

from datamodules.sources.layouts import visible_folders
from datamodules.test_sets.base import Benchmark, Contents
from datamodules.test_sets.degradations import degradations_of
from datamodules.test_sets.files import pair_folders

CLEAN = "clear"
"""The folder of the truths."""


class CDD11(Benchmark):
    """``clear/`` beside one folder a degradation, such as ``low_haze_rain/``, with the same file names in all; the folders are the groups.

    Args:
        root: The folder that holds them, ``CDD-11_test``.
        **options: As in `Benchmark`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """Pair each degradation's folder with the clean one."""
        clean = self.root / CLEAN
        if not clean.is_dir():
            raise ValueError(f"{self.root} has no folder {CLEAN}/ of clean images; give the folder that holds it, such as CDD-11_test")
        contents = Contents()
        for folder in visible_folders(self.root):
            if folder.name != CLEAN:
                contents += pair_folders(folder.name, folder, clean, degradations_of(folder.name))
        return contents
