"""Degrade an image as a group says, atom after atom in the order of the light's way."""

from collections.abc import Callable

import numpy as np
import torch

from datamodules.degradations.blur import blur
from datamodules.degradations.groups import atoms_of_group
from datamodules.degradations.haze import haze
from datamodules.degradations.jpeg import jpeg
from datamodules.degradations.lowlight import lowlight
from datamodules.degradations.noise import noise
from datamodules.degradations.rain import rain
from datamodules.degradations.raindrop import raindrop

Degradation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]

IN_ORDER: dict[str, Degradation] = {
    "haze": haze,
    "rain": rain,
    "raindrop": raindrop,
    "blur": blur,
    "lowlight": lowlight,
    "noise": noise,
    "jpeg": jpeg,
}
"""The atoms from the scene (haze, rain) over the lens (raindrop, blur) and the sensor (lowlight, noise) to the file (jpeg)."""

_STREAM = 0xDE64


def _apply(image: np.ndarray, atoms: tuple[str, ...], severity: float, seed: int) -> np.ndarray:
    share = float(severity) / max(len(atoms), 1) ** 0.5
    for index, (atom, degradation) in enumerate(IN_ORDER.items()):
        if atom in atoms:
            # A stream for each atom: rain falls where it fell, whether there is haze or not.
            image = degradation(image, share, np.random.default_rng([_STREAM, index, seed]))
    return np.clip(image, 0.0, 1.0).astype(np.float32, copy=False)


def degrade(image: torch.Tensor | np.ndarray, group: str, *, severity: float, seed: int) -> torch.Tensor | np.ndarray:
    """Degrade an sRGB image with values in 0..1 as ``group`` says, e.g. ``"02Blur_Noise"``; equal arguments give equal bytes.

    Takes a float tensor ``[3, H, W]`` and returns a float32 tensor of that shape, on the CPU; or takes a float32 array ``[H, W, 3]`` and
    returns one. The input is left as it is. The severity, from 0 (nearly as it was; only ``jpeg`` and ``noise`` leave a trace) to 1
    (severe), is that of the whole: each of n atoms gets ``severity / sqrt(n)``, else three at once would leave nothing to restore. The seed
    draws everything else, so that at one seed a higher severity is the same accident made worse. Lengths (blur, streaks, drops) are in
    pixels and suit images or crops of 100 to 500 pixels. (ours)

    Raises:
        ValueError: unknown group, severity outside 0..1, or an image of another shape or type.
    """
    atoms = atoms_of_group(group)
    if not 0.0 <= severity <= 1.0:
        raise ValueError(f"severity must lie in 0..1, not {severity}")
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(f"a tensor to degrade must be float [3, H, W] with values in 0..1, not {image.dtype} {list(image.shape)}")
        pixels = np.ascontiguousarray(image.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy())
        degraded = _apply(pixels, atoms, severity, seed)
        return torch.from_numpy(degraded).permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.float32:
        raise ValueError(f"an array to degrade must be float32 [H, W, 3] with values in 0..1, not {image.dtype} {list(image.shape)}")
    return _apply(image, atoms, severity, seed).copy()
