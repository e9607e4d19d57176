"""Degradation groups by name: FoundIR's twenty and the undegraded image. Not in the paper."""

import re

from mimdit.core.batch import ATOMS

CODEC_WORDS = ("webp", "avif", "heic", "jpeg2000", "jxl", "h264", "h265")
"""Names of codecs in groups, beside JPEG; all of them are the atom ``jpeg``."""

_ATOMS_OF_WORD: dict[str, tuple[str, ...]] = {atom: (atom,) for atom in ATOMS} | {"nightrain": ("lowlight", "rain"), "clean": ()}
_ATOMS_OF_WORD |= {word: ("jpeg",) for word in CODEC_WORDS}


def atoms_of_group(name: str) -> tuple[str, ...]:
    """Return the atoms in a group's name, in the order of `mimdit.core.batch.ATOMS`: ``"09Lowlight_Haze"`` is haze and lowlight.

    A name has two optional digits and words joined by ``_``, in any case: the names of the atoms (Blur, Noise, JPEG, Haze, ...), NightRain
    (rain and lowlight), Clean (no atom) and codecs with their quality (``AVIF_Q20`` is jpeg). FoundIR's training set uses the same pattern.

    Raises:
        ValueError: The name has another word.
    """
    found: set[str] = set()
    for token in re.sub(r"_q\d+$", "", re.sub(r"^\d+", "", name), flags=re.IGNORECASE).split("_"):
        atoms = _ATOMS_OF_WORD.get(token.lower())
        if atoms is None:
            known = ", ".join(_ATOMS_OF_WORD)
            raise ValueError(f"degradation group {name!r} has the unknown part {token!r}: it must be made of {known}, joined by '_'")
        found.update(atoms)
    return tuple(atom for atom in ATOMS if atom in found)


def is_clean(name: str) -> bool:
    """Return true if a group's name says that its images need nothing; false if it names a degradation or is no name of a group."""
    try:
        return not atoms_of_group(name)
    except ValueError:
        return False


CLEAN = "00Clean"
"""Group of undegraded images."""

_NAMES = [
    "01Blur", "02Blur_Noise", "03Blur_JPEG", "04Blur_Noise_JPEG",
    "05Noise", "06JPEG", "07Noise_JPEG", "08Haze",
    "09Lowlight_Haze", "10Rain", "11Raindrop", "12NightRain",
    "13Rain_Haze", "14Lowlight", "15Lowlight_Blur", "16Lowlight_Noise",
    "17Lowlight_JPEG", "18Lowlight_Blur_Noise", "19Lowlight_Blur_JPEG", "20Lowlight_Noise_JPEG",
]  # fmt: skip

GROUPS: dict[str, tuple[str, ...]] = {name: atoms_of_group(name) for name in (CLEAN, *_NAMES)}
"""Atoms of FoundIR's twenty test groups (arXiv 2412.01427) and of `CLEAN`, by name."""


def is_new_mixture(name: str) -> bool:
    """Return true if a name without digits, such as ``Haze_Noise``, is of two or more atoms that none of `GROUPS` combines."""
    try:
        atoms = atoms_of_group(name)
    except ValueError:
        return False
    return not any(map(str.isdigit, name)) and len(atoms) > 1 and atoms not in GROUPS.values()
