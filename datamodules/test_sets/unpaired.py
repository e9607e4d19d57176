"""Photographs without ground truth: DICM, LIME, MEF, NPE, VV, RTTS, and anyone's own."""

from functools import partial
from pathlib import Path

from datamodules.sources.layouts import visible_folders
from datamodules.test_sets.base import Benchmark, Contents, Entry
from datamodules.test_sets.degradations import degradations_of
from datamodules.test_sets.files import images_by_stem, load_pair


class Unpaired(Benchmark):
    """Folders of images without truths, which only no-reference metrics score.

    The images of the root are one group of its name; where it holds none itself, each of its sub-folders is a group.

    Args:
        root: The folder.
        degradations: What degraded the images; null goes by the names of root and groups.
        **options: As in `Benchmark`.
    """

    def __init__(self, root: str, *, degradations: list[str] | None = None, **options) -> None:
        super().__init__(root, **options)
        self.degradations = degradations

    def find(self) -> Contents:
        """List every image below each group's folder."""
        everything = images_by_stem(self.root)
        flat = any("/" not in stem for stem in everything)
        contents = Contents()
        for home in [self.root] if flat else visible_folders(self.root):
            told = degradations_of(home.name) or degradations_of(self.root.name)
            told = told if self.degradations is None else tuple(self.degradations)
            for stem, paths in images_by_stem(home).items():
                for path in paths:
                    contents.entries.append(Entry(home.resolve().name, _key(stem, path, len(paths)), told, partial(load_pair, path, None)))
        return contents


def _key(stem: str, path: Path, of_this_stem: int) -> str:
    """The stem, with the suffix where another image differs in that alone."""
    return stem if of_this_stem == 1 else stem + path.suffix
