"""Formulas of a degradation; each atom has several. Not in the paper.

An atom is a name in `mimdit.core.batch.ATOMS` and a module of that name in this package, which declares its `FORMULAS`, its `PLACE` among
the atoms and the `STREAM` of its random numbers. No other code needs to change for a new atom.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Degradation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""Function of a float32 image ``[H, W, 3]`` in 0..1 (sRGB), a severity in 0..1 and a random generator; returns a new image of that kind."""


class Formula(NamedTuple):
    """One way to make a kind of degradation.

    Attributes:
        apply: The formula. It draws the same random numbers at every severity, so that a higher severity makes the same degradation worse.
        weight: Probability of being drawn, relative to the other formulas of the atom.
    """

    apply: Degradation
    weight: float = 1.0


def draw_formula(formulas: dict[str, Formula], rng: np.random.Generator) -> str:
    """Return the name of a formula, drawn by weight."""
    weights = np.cumsum([formula.weight for formula in formulas.values()])
    return list(formulas)[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
