"""Arithmetic of shares: a law of the scores' changes fitted to what groups got, and a bounded step along its gains. Not in the paper.

Shares are in units of the uniform share here: 1 is one part in G. Scores are PSNRs in dB, which are logarithms of a squared error: 1 dB
more is a loss of 20.6 % less.
"""

from __future__ import annotations

import numpy as np


def fit_law(shares_WG: np.ndarray, changes_WG: np.ndarray, *, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit ``change = common + own * share`` to the windows of each group.

    It is the diagonal of the data mixing laws: the logarithm of a group's loss is linear in the shares (arXiv 2403.16952), with
    coefficients estimated during training (Aioli, arXiv 2411.05735). Of G² coefficients, which a few windows cannot determine, only a
    group's own is kept; those of the other groups, and the progress that any data brings, are in ``common``. A group's own data is taken
    never to harm it: ``own`` is at least 0.

    Args:
        shares_WG: Share that each group got in each window, ``[W, G]``, in units of the uniform share.
        changes_WG: Change of each group's score over the window, ``[W, G]``, in dB.
        ridge: Weight of the penalty on the squares of both coefficients. While the shares do not vary, it alone divides a change between
            them; then groups that improve faster have larger ``own``.

    Returns:
        ``own`` and ``common``, ``[G]``, in dB for one uniform share and in dB.
    """
    windows = len(shares_WG)
    # Normal equations [[a, b], [b, d]] [own, common] = [e, f].
    a_G, b_G, d = (shares_WG**2).sum(0) + ridge, shares_WG.sum(0), windows + ridge
    e_G, f_G = (shares_WG * changes_WG).sum(0), changes_WG.sum(0)
    own_G = np.maximum(0.0, (d * e_G - b_G * f_G) / (a_G * d - b_G**2))
    return own_G, (f_G - b_G * own_G) / d


def step_within(
    shares_G: np.ndarray, gains_G: np.ndarray, *, step: float, floor: float, ceiling: float, max_change: float
) -> np.ndarray:  # fmt: skip
    """Return ``shares * exp(step * gains)``, scaled and clipped to the bounds so that their mean is 1.

    The exponentiated-gradient step, projected in relative entropy onto the bounds: clipping after one common factor.

    Args:
        shares_G: Shares, ``[G]``, in units of the uniform share, with mean 1 and within ``floor`` and ``ceiling``.
        gains_G: Gain of each group for one uniform share more, ``[G]``.
        step: Size of the step.
        floor: Least share, 0..1.
        ceiling: Largest share, at least 1.
        max_change: Largest change of a share, above 0.
    """
    low_G, high_G = np.maximum(floor, shares_G - max_change), np.minimum(ceiling, shares_G + max_change)
    target_G = np.log(shares_G) + step * (gains_G - gains_G.max())
    # The mean grows with the factor: bisect its logarithm. At the ends all shares are at a bound, below 1 and above it.
    least, most = float((np.log(low_G) - target_G).min()), float((np.log(high_G) - target_G).max())
    for _ in range(200):
        middle = (least + most) / 2
        mean = np.clip(np.exp(target_G + middle), low_G, high_G).mean()
        least, most = (middle, most) if mean < 1 else (least, middle)
    return np.clip(np.exp(target_G + most), low_G, high_G)
