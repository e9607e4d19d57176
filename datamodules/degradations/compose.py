"""Degradation of an image by the atoms of its group, along the path of the light. Not in the paper."""

from importlib import import_module

import numpy as np
import torch

from datamodules.degradations import camera_files, codecs
from datamodules.degradations.formula import Formula, draw_formula
from datamodules.degradations.groups import atoms_of_group
from mimdit.core.batch import ATOMS

FORMULA_SETS = ("original", "varied", "codecs", "cameras")
"""``original``: the first formula of each atom; ``varied``: one formula of each atom at random; ``codecs``: also those of other codecs;
``cameras``: as ``varied``, but noise as cameras leave it in their files."""

# The module of an atom has the atom's name and declares its FORMULAS, PLACE and STREAM.
_MODULES = {atom: import_module(f"datamodules.degradations.{atom}") for atom in ATOMS}

IN_ORDER: dict[str, dict[str, Formula]] = {atom: _MODULES[atom].FORMULAS for atom in sorted(ATOMS, key=lambda atom: _MODULES[atom].PLACE)}
"""Formulas of the atoms, from the scene (haze, rain) over the lens (raindrop, blur) and the sensor (lowlight, noise) to the file (jpeg)."""

_STREAM = 0xDE64
_CHOICE = 0xF012


def drawn_formula(atom: str, seed: int, formulas: str = "varied") -> str:
    """Return the name of the formula that an atom uses at a seed.

    Raises:
        ValueError: ``formulas`` is not in `FORMULA_SETS`.
    """
    _check_set(formulas)
    if formulas == "original":
        return next(iter(IN_ORDER[atom]))
    # A separate random stream for the choice, so that a formula draws the same numbers in all sets.
    return draw_formula(_formulas_of(atom, formulas), np.random.default_rng([_CHOICE, _MODULES[atom].STREAM, seed]))


def _check_set(formulas: str) -> None:
    if formulas not in FORMULA_SETS:
        raise ValueError(f"unknown set of formulas {formulas!r}: choose one of {', '.join(FORMULA_SETS)}")


def _formulas_of(atom: str, formulas: str) -> dict[str, Formula]:
    """Return the formulas of an atom in a set, by name."""
    if (atom, formulas) == ("noise", "cameras"):
        return camera_files.FORMULAS
    return IN_ORDER[atom] | codecs.FORMULAS if (atom, formulas) == ("jpeg", "codecs") else IN_ORDER[atom]


def _apply(image: np.ndarray, atoms: tuple[str, ...], severity: float, seed: int, formulas: str) -> np.ndarray:
    share = float(severity) / max(len(atoms), 1) ** 0.5
    for atom in IN_ORDER:
        if atom in atoms:
            # A random stream for each atom: rain falls at the same places with and without haze.
            rng = np.random.default_rng([_STREAM, _MODULES[atom].STREAM, seed])
            image = _formulas_of(atom, formulas)[drawn_formula(atom, seed, formulas)].apply(image, share, rng)
    return np.clip(image, 0.0, 1.0).astype(np.float32, copy=False)


def degrade(
    image: torch.Tensor | np.ndarray, group: str, *, severity: float, seed: int, formulas: str = "original"
) -> torch.Tensor | np.ndarray:
    """Degrade an sRGB image with values in 0..1 by the atoms of ``group``, e.g. ``"02Blur_Noise"``.

    Equal arguments give equal bytes. The input stays unchanged. Lengths (blur, streaks, drops) are in pixels and suit images or crops of
    100 to 500 pixels.

    Args:
        image: Float tensor ``[3, H, W]``, which gives a float32 tensor of that shape on the CPU, or float32 array ``[H, W, 3]``, which
            gives an array.
        group: Name that `atoms_of_group` can parse.
        severity: Total severity from 0 (nearly unchanged; ``jpeg`` and ``noise`` leave a trace) to 1 (severe). Each of n atoms gets
            ``severity / sqrt(n)``; otherwise three atoms together would leave nothing to restore.
        seed: Seed of all other random choices: at one seed, a higher severity makes the same degradation worse.
        formulas: One of `FORMULA_SETS`. A model trained on one formula per atom learns the formula instead of the kind of degradation.

    Raises:
        ValueError: The group or the set of formulas is unknown, the severity is outside 0..1, the image has another shape or type, or an
            encoder of the set ``codecs`` is not installed.
    """
    atoms = atoms_of_group(group)
    if not 0.0 <= severity <= 1.0:
        raise ValueError(f"severity must lie in 0..1, not {severity}")
    _check_set(formulas)
    if formulas == "codecs":
        codecs.require_codecs(list(codecs.CODECS))  # all: the bytes must not depend on what is installed
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(f"a tensor to degrade must be float [3, H, W] with values in 0..1, not {image.dtype} {list(image.shape)}")
        pixels = np.ascontiguousarray(image.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy())
        degraded = _apply(pixels, atoms, severity, seed, formulas)
        return torch.from_numpy(degraded).permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.float32:
        raise ValueError(f"an array to degrade must be float32 [H, W, 3] with values in 0..1, not {image.dtype} {list(image.shape)}")
    return _apply(image, atoms, severity, seed, formulas).copy()
