"""The formulas of a degradation: an atom has several. Not in the paper.

An atom is a name in `mimdit.core.batch.ATOMS` and a module of that name in this package, which declares its `FORMULAS`, its `PLACE` among
the atoms and the `STREAM` of its random numbers. Nothing else knows of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Degradation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
"""Takes a float32 image ``[H, W, 3]`` in 0..1 (sRGB), a severity in 0..1 and a generator; returns a new image of that kind."""


class Formula(NamedTuple):
    """A way to make one kind of degradation.

    Attributes:
        apply: The formula. It draws the same numbers at every severity: a higher one is the same accident made worse.
        weight: Its chance to be drawn, relative to the other formulas of its atom.
    """

    apply: Degradation
    weight: float = 1.0


def draw_formula(formulas: dict[str, Formula], rng: np.random.Generator) -> str:
    """Return the name of one of the formulas, drawn by their weights."""
    weights = np.cumsum([formula.weight for formula in formulas.values()])
    return list(formulas)[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
