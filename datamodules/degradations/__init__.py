"""Seven elementary degradations (atoms) and their compositions, on images with values in 0..1."""

from datamodules.degradations.compose import FORMULA_SETS, degrade
from datamodules.degradations.groups import CLEAN, GROUPS, atoms_of_group, is_new_mixture

__all__ = ["CLEAN", "FORMULA_SETS", "GROUPS", "atoms_of_group", "degrade", "is_new_mixture"]
