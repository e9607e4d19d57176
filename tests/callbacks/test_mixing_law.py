"""The law of the shares: known coefficients are recovered, and a step keeps every bound whatever the scores did."""

import numpy as np
import pytest

from callbacks.mixing_law import fit_law, step_within


def test_a_known_law_is_recovered():
    rng = np.random.default_rng(0)
    own, common = np.array([0.8, 0.0, 0.3, 1.7]), np.array([-0.1, 0.4, 0.2, 0.0])
    shares = rng.dirichlet([3] * 4, size=6) * 4
    got_own, got_common = fit_law(shares, common + own * shares, ridge=1e-9)
    np.testing.assert_allclose(got_own, own, atol=1e-6)
    np.testing.assert_allclose(got_common, common, atol=1e-6)


def test_the_fit_is_ridge_regression():
    rng = np.random.default_rng(1)
    shares, ridge = rng.uniform(0.3, 2, (5, 3)), 0.7
    changes = 0.5 * shares + rng.normal(0, 0.1, (5, 3))
    own, common = fit_law(shares, changes, ridge=ridge)
    for group in range(3):  # as least squares with two rows that pull the coefficients to zero
        design = np.vstack([np.column_stack([shares[:, group], np.ones(5)]), np.sqrt(ridge) * np.eye(2)])
        expected = np.linalg.lstsq(design, np.append(changes[:, group], [0, 0]), rcond=None)[0]
        np.testing.assert_allclose([own[group], common[group]], expected, rtol=1e-9)


def test_own_data_never_counts_as_harm():
    shares, changes = np.array([[0.5], [1.0], [1.5]]), np.array([[0.6], [0.5], [0.4]])
    own, common = fit_law(shares, changes, ridge=1e-9)
    assert own == 0 and common == pytest.approx(0.5)


def test_while_shares_stand_still_faster_groups_gain_more():
    own, _ = fit_law(np.ones((3, 3)), np.tile([0.1, 0.5, -0.2], (3, 1)), ridge=0.1)
    assert own[1] > own[0] > own[2] == 0


def test_no_bound_is_broken_over_random_gains():
    rng = np.random.default_rng(2)
    for _ in range(300):
        groups = int(rng.integers(2, 22))
        floor, ceiling, max_change = rng.uniform(0.05, 1), rng.uniform(1, 6), rng.uniform(0.01, 3)
        shares = np.ones(groups)
        for _ in range(10):
            before = shares
            gains = rng.normal(0, 10.0 ** rng.uniform(-3, 3), groups)
            shares = step_within(before, gains, step=rng.uniform(0.01, 5), floor=floor, ceiling=ceiling, max_change=max_change)
            assert shares.mean() == pytest.approx(1, abs=1e-9)
            assert shares.min() >= floor - 1e-9 and shares.max() <= ceiling + 1e-9
            assert np.abs(shares - before).max() <= max_change + 1e-9


def test_without_bounds_the_step_is_an_exponentiated_gradient():
    shares, gains = np.array([0.5, 1.0, 1.5]), np.array([0.2, -0.1, 0.4])
    expected = shares * np.exp(2 * gains)
    stepped = step_within(shares, gains, step=2.0, floor=1e-6, ceiling=1e6, max_change=1e6)
    np.testing.assert_allclose(stepped, expected / expected.mean(), rtol=1e-12)
