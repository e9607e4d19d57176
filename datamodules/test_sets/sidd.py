"""SIDD's validation blocks: noisy and clean crops in two MATLAB files (Abdelhamed et al., CVPR 2018)."""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from datamodules.test_sets.base import Benchmark, Contents, Entry, Images

NOISY, CLEAN = "ValidationNoisyBlocksSrgb", "ValidationGtBlocksSrgb"
"""The variables, and the files' names before ``.mat``."""


class SIDDBlocks(Benchmark):
    """``ValidationNoisyBlocksSrgb.mat`` and ``ValidationGtBlocksSrgb.mat``: 40 images of 32 blocks of 256 pixels.

    Args:
        root: The folder that holds the two files.
        **options: As in `Benchmark`.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(root, **options)

    def find(self) -> Contents:
        """List the blocks by image and number, as the files' headers tell them."""
        from scipy.io import whosmat

        shapes = {}
        for name in (NOISY, CLEAN):
            path = self.root / f"{name}.mat"
            if not path.is_file():
                raise ValueError(f"{path} is missing; give the folder that holds it and {CLEAN if name == NOISY else NOISY}.mat")
            shapes[name] = {variable: shape for variable, shape, _ in whosmat(path)}.get(name)
        shape = shapes[NOISY]
        if shape is None or len(shape) != 5 or shape != shapes[CLEAN] or shape[4] != 3:
            raise ValueError(f"the blocks in {self.root} are {shapes}; both must be [images, blocks, height, width, 3]")
        entries = [
            Entry("SIDD", f"{image:02d}-{block:02d}", ("noise",), partial(_load_block, self.root, image, block))
            for image in range(shape[0])
            for block in range(shape[1])
        ]
        return Contents(entries)


def _load_block(root: Path, image: int, block: int) -> Images:
    noisy, clean = (_read_blocks(root / f"{name}.mat", name)[image, block] for name in (NOISY, CLEAN))
    return np.ascontiguousarray(noisy), np.ascontiguousarray(clean)


@lru_cache(maxsize=2)
def _read_blocks(path: Path, name: str) -> np.ndarray:
    """All blocks of a file, 251 MB each, which are kept: every block is asked for."""
    from scipy.io import loadmat

    blocks = loadmat(path, variable_names=[name])[name]
    if blocks.dtype != np.uint8:
        raise ValueError(f"{path} holds {blocks.dtype}; the blocks must be uint8")
    return blocks
