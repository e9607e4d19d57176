"""Rain streaks and veil."""

import numpy as np
import pytest

from datamodules.degradations.rain import rain, rain_map, streak_kernel


@pytest.mark.parametrize("seed", range(5))
def test_only_adds_light(seed):
    image = np.random.default_rng(seed).random((64, 80, 3), dtype=np.float32)
    rainy = rain(image, 0.8, np.random.default_rng(seed))
    assert (rainy >= image - 1e-6).all() and rainy.max() <= 1.0 and rainy.mean() > image.mean() + 0.005


def test_more_severity_adds_streaks_and_moves_none():
    light, heavy = (rain_map(96, 96, severity, np.random.default_rng(4)) for severity in (0.3, 0.9))
    assert ((light > 0.2) & (heavy < 0.15)).mean() < 0.002 and (heavy > 0.2).mean() > 2.0 * (light > 0.2).mean()


@pytest.mark.parametrize("angle", [-0.5, 0.0, 0.4])
def test_streak_points_where_it_says(angle):
    kernel = streak_kernel(30.0, 0.8, angle)
    reach = kernel.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    covariance = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=kernel.ravel())
    variances, axes = np.linalg.eigh(covariance)
    assert abs(axes[:, 1] @ [np.sin(angle), np.cos(angle)]) > 0.999
    # A line of length L has variance L^2 / 12; its rounded ends add a little.
    assert variances[1] == pytest.approx(30.0**2 / 12.0, rel=0.2) and variances[0] == pytest.approx(0.64, rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_streaks_share_one_direction_near_the_vertical(seed):
    # The structure tensor: along the fall the image changes less than across it.
    dy, dx = np.gradient(rain_map(128, 128, 1.0, np.random.default_rng(seed)))
    changes, axes = np.linalg.eigh([[(dx * dx).mean(), (dx * dy).mean()], [(dx * dy).mean(), (dy * dy).mean()]])
    assert changes[0] < 0.25 * changes[1] and abs(axes[1, 0]) > 0.6
