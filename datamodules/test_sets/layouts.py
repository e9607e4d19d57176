"""Layouts of test sets, one class each: FoundIR, shards, pairs of folders, CDD-11, SIDD, PolyU, and images without truths."""

import re
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding import check_sizes, decode_image
from datamodules.degradations.groups import atoms_of_group
from datamodules.foundir import missing_test_pairs
from datamodules.pairs import ShardPairs
from datamodules.shards import ShardIndex
from datamodules.sources.layouts import visible_folders
from datamodules.sources.listing import Listing, SourcePair, list_foundir
from datamodules.sources.members import MemberReader
from datamodules.test_sets.base import Contents, Entry, Images, TestSet
from datamodules.test_sets.files import degradations_of, images_by_stem, load_pair, pair_folders

SIDES = (
    ("input", "target"), ("LQ", "GT"), ("low", "high"), ("low", "normal"), ("blur", "sharp"), ("hazy", "gt"), ("rainy", "gt"),
    ("IN", "GT"), ("synthetic", "gt"), ("noisy", "clean"),
)  # fmt: skip
"""Names of the two folders in public sets; upper and lower case do not matter."""

CDD11_CLEAN = "clear"
"""Folder of CDD-11's truths."""

SIDD_NOISY, SIDD_CLEAN = "ValidationNoisyBlocksSrgb", "ValidationGtBlocksSrgb"
"""SIDD's variables, and the files' names before ``.mat``."""

_POLYU_NAME = re.compile(r"(?P<scene>.+)_(?P<side>real|mean)", re.IGNORECASE)


class FoundIR(TestSet):
    """FoundIR's test set as it was released (arXiv 2412.01427).

    Layouts: ``<group>/{GT,LQ}``, ``{GT,LQ}/<group>``, archives ``<group>.zip``, or a ``.txt`` of "GT, LQ" lines.

    Args:
        root: The folder, or the list.
        **options: As in `TestSet`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """List the pairs and the rejects of the source."""
        listing = list_foundir(self.root)
        return Contents(
            [Entry(pair.group, pair.stem, atoms_of_group(pair.group), partial(_load_listed, listing, pair)) for pair in listing.pairs],
            [f"{reject.group}/{reject.name}: {reject.reason}" for reject in listing.rejects],
        )

    def protocol(self) -> dict[str, Any]:
        """Return the settings, with any difference from the published test set, which makes figures incomparable."""
        difference = missing_test_pairs(Counter(entry.group for entry in self.contents.entries))
        return super().protocol() | ({"differs_from_published": difference} if difference else {})


def _load_listed(listing: Listing, pair: SourcePair) -> Images:
    with MemberReader(listing.root, listing.files) as reader:
        lq, gt = (decode_image(reader.read(member), f"{member.name} of {listing.root}") for member in (pair.lq, pair.gt))
    check_sizes(lq, gt, f"{pair.lq.name} and {pair.gt.name} of {listing.root}")
    return lq, gt


class Shards(TestSet):
    """A local folder of shards with images, such as ``mimdit shards quickstart`` writes; groups are the shards'.

    Args:
        root: The folder, with its ``index.json``.
        **options: As in `TestSet`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """List the samples of every shard."""
        pairs = ShardPairs(ShardIndex.load(self.root))
        return Contents(
            [
                Entry(group, key.removeprefix(f"{group}/"), degradations_of(group), partial(_load_from_shards, pairs, number))
                for number, (group, key) in enumerate(pairs.names)
            ]
        )


def _load_from_shards(pairs: ShardPairs, number: int) -> Images:
    pair = pairs[number]
    return pair.lq, pair.gt


class PairFolders(TestSet):
    """Two folders of degraded images and truths under the root, or under each sub-folder, which then names a group.

    For GoPro, HIDE, RealBlur, LOL, Rain100L, DA-CLIP's ten and most others. The root has folders such as ``input`` and ``target``
    (Restormer's ``test/GoPro``), or its sub-folders have them (Restormer's ``test``, DA-CLIP's ``val``). LOL's root is ``eval15``, ``Test``
    or ``Real_captured/Test``. Images are paired by name, without suffixes.

    Args:
        root: The folder.
        sides: Names of the folders of degraded images and of truths; null looks for the usual ones.
        truth_name: Regular expression and replacement that turn an image's name into its truth's, where they differ: ``["_.*", ""]`` for
            haze, ``["^low", "normal"]`` for LOL v2 as it was released.
        degradations: Degradations of the images; null takes them from the names of root and groups.
        **options: As in `TestSet`.
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
        """Pair the folders of the root, or else of its sub-folders.

        Raises:
            ValueError: None of them has two such folders, or one has several such pairs.
        """
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
            named = degradations_of(home.name) or degradations_of(self.root.name) or degradations_of(self.root.resolve().parent.name)
            named = named if self.degradations is None else tuple(self.degradations)
            contents += pair_folders(home.resolve().name, lq, gt, named, self.truth_name)
        return contents

    def _sides_in(self, folder: Path) -> tuple[Path, Path] | None:
        """Return the folders of degraded images and of truths in a folder.

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


class CDD11(TestSet):
    """CDD-11 (OneRestore, arXiv 2407.04621): ``clear/`` beside one folder per degradation, such as ``low_haze_rain/``.

    Those folders are the groups.

    Args:
        root: The folder that holds them, ``CDD-11_test``.
        **options: As in `TestSet`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """Pair each degradation's folder with the clean one.

        Raises:
            ValueError: There is no folder ``clear``.
        """
        clean = self.root / CDD11_CLEAN
        if not clean.is_dir():
            raise ValueError(
                f"{self.root} has no folder {CDD11_CLEAN}/ of clean images; give the folder that holds it, such as CDD-11_test"
            )
        contents = Contents()
        for folder in visible_folders(self.root):
            if folder.name != CDD11_CLEAN:
                contents += pair_folders(folder.name, folder, clean, degradations_of(folder.name))
        return contents


class SIDDBlocks(TestSet):
    """SIDD's validation blocks, ``ValidationNoisyBlocksSrgb.mat`` and ``ValidationGtBlocksSrgb.mat``: 40 images of 32 blocks of 256 pixels.

    Abdelhamed et al., CVPR 2018.

    Args:
        root: The folder that holds the two files.
        **options: As in `TestSet`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """List the blocks by image and number, from the files' headers.

        Raises:
            ValueError: A file is missing, or its blocks have another shape.
        """
        from scipy.io import whosmat

        shapes = {}
        for name in (SIDD_NOISY, SIDD_CLEAN):
            path = self.root / f"{name}.mat"
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing; give the folder that holds it and {SIDD_CLEAN if name == SIDD_NOISY else SIDD_NOISY}.mat"
                )
            shapes[name] = {variable: shape for variable, shape, _ in whosmat(path)}.get(name)
        shape = shapes[SIDD_NOISY]
        if shape is None or len(shape) != 5 or shape != shapes[SIDD_CLEAN] or shape[4] != 3:
            raise ValueError(f"the blocks in {self.root} are {shapes}; both must be [images, blocks, height, width, 3]")
        entries = [
            Entry("SIDD", f"{image:02d}-{block:02d}", ("noise",), partial(_load_block, self.root, image, block))
            for image in range(shape[0])
            for block in range(shape[1])
        ]
        return Contents(entries)


def _load_block(root: Path, image: int, block: int) -> Images:
    noisy, clean = (_read_blocks(root / f"{name}.mat", name)[image, block] for name in (SIDD_NOISY, SIDD_CLEAN))
    return np.ascontiguousarray(noisy), np.ascontiguousarray(clean)


@lru_cache(maxsize=2)
def _read_blocks(path: Path, name: str) -> np.ndarray:
    """Return all blocks of a file, 251 MB, and keep them: every block is read."""
    from scipy.io import loadmat

    blocks = loadmat(path, variable_names=[name])[name]
    if blocks.dtype != np.uint8:
        raise ValueError(f"{path} holds {blocks.dtype}; the blocks must be uint8")
    return blocks


class PolyU(TestSet):
    """PolyU's real noise (arXiv 1804.02603) in one folder: ``<scene>_real`` is noisy, ``<scene>_mean`` its truth.

    Args:
        root: ``CroppedImages``, with 100 pairs of 512 pixels a side.
        **options: As in `TestSet`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """Pair by the name before ``_real`` and ``_mean``."""
        contents, scenes = Contents(), {}
        for stem, paths in images_by_stem(self.root).items():
            match = _POLYU_NAME.fullmatch(stem)
            if match is None or len(paths) > 1:
                contents.unpaired.append(f"{', '.join(map(str, paths))}: not one image named <scene>_real or <scene>_mean")
            else:
                scenes.setdefault(match["scene"], {})[match["side"].lower()] = paths[0]
        for scene, sides in scenes.items():
            if len(sides) == 2:
                contents.entries.append(Entry("PolyU", scene, ("noise",), partial(load_pair, sides["real"], sides["mean"])))
            else:
                (side, path), *_ = sides.items()
                contents.unpaired.append(f"{path}: no {scene}_{'mean' if side == 'real' else 'real'}.* beside it")
        return contents


class Unpaired(TestSet):
    """Folders of images without truths, which only no-reference metrics score: DICM, LIME, MEF, NPE, VV, RTTS.

    The images of the root are one group of its name; where the root itself holds none, each sub-folder is a group.

    Args:
        root: The folder.
        degradations: Degradations of the images; null takes them from the names of root and groups.
        **options: As in `TestSet`.
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
            named = degradations_of(home.name) or degradations_of(self.root.name)
            named = named if self.degradations is None else tuple(self.degradations)
            for stem, paths in images_by_stem(home).items():
                for path in paths:
                    contents.entries.append(Entry(home.resolve().name, _key(stem, path, len(paths)), named, partial(load_pair, path, None)))
        return contents


def _key(stem: str, path: Path, of_this_stem: int) -> str:
    """Return the stem, with the suffix where another image has the same stem."""
    return stem if of_this_stem == 1 else stem + path.suffix
