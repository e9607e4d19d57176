"""PolyU's real noise: noisy and mean images side by side in one folder (arXiv 1804.02603)."""

import re
from functools import partial

from datamodules.test_sets.base import Benchmark, Contents, Entry
from datamodules.test_sets.files import images_by_stem, load_pair

_NAME = re.compile(r"(?P<scene>.+)_(?P<side>real|mean)", re.IGNORECASE)


class PolyU(Benchmark):
    """``<scene>_real`` is noisy, ``<scene>_mean`` its truth.

    Args:
        root: ``CroppedImages``, with 100 pairs of 512 pixels a side.
        **options: As in `Benchmark`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """Pair by what stands before ``_real`` and ``_mean``."""
        contents, scenes = Contents(), {}
        for stem, paths in images_by_stem(self.root).items():
            match = _NAME.fullmatch(stem)
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
