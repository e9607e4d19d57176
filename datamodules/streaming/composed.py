"""Groups without training data of their own, composed on the fly from another group's clean images. Not in the paper.

FoundIR's training archives lack three of its test groups: 18Lowlight_Blur_Noise, 19Lowlight_Blur_JPEG and 20Lowlight_Noise_JPEG.
"""

import numpy as np

from datamodules.augmentation import crop_and_flip
from datamodules.decoding import Pair, decode_image
from datamodules.degradations import GROUPS, atoms_of_group, degrade
from datamodules.shards import RawSample
from mimdit.core.batch import ATOMS


def check_composed(composed: dict[str, str], groups: list[str]) -> None:
    """Check a map from composed groups to the groups whose clean images they degrade.

    Raises:
        ValueError: A composed group has shards already or cannot be made, or a source is missing.
    """
    for group, source in composed.items():
        if source not in groups:
            raise ValueError(f"data.composed makes {group} from {source}, which the shards do not hold. They hold {', '.join(groups)}.")
        if group in groups:
            raise ValueError(f"data.composed names {group}, but the shards hold pairs of it. Take it out of data.composed.")
        if group not in GROUPS or not atoms_of_group(group):
            raise ValueError(f"data.composed cannot make {group!r}; it can make {', '.join(name for name in GROUPS if GROUPS[name])}.")


def composed_pair(sample: RawSample, group: str, crop: int, rng: np.random.Generator, *, flip: bool = True) -> Pair:
    """Crop a sample's clean image and degrade the crop by ``group``, with a severity uniform in 0.1..1.

    Raises:
        BadSampleError: The clean image is missing, cannot be decoded or is smaller than the crop.
    """
    clean = decode_image(sample.gt, f"The gt image of {sample.place}")
    present = np.array([atom in atoms_of_group(group) for atom in ATOMS], np.float32)
    pair = crop_and_flip(Pair(sample.key, group, clean, clean, present), crop, rng, flip=flip)
    floating = np.ascontiguousarray(pair.gt, np.float32) / 255
    degraded = degrade(floating, group, severity=float(rng.uniform(0.1, 1.0)), seed=int(rng.integers(2**31)))
    return Pair(sample.key, group, np.round(degraded * 255).astype(np.uint8), pair.gt, present)
