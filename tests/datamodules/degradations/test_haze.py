"""Atmospheric scattering."""

import numpy as np
import pytest

from datamodules.degradations.haze import air_light, depth_map, haze, scatter, transmission_map


def test_known_transmission_and_air_give_the_scene_back():
    rng = np.random.default_rng(0)
    scene = rng.random((32, 40, 3), dtype=np.float32)
    transmission, air = transmission_map(depth_map(32, 40, rng), 0.4), air_light(rng)
    hazy = scatter(scene, transmission, air)
    np.testing.assert_allclose((hazy - air * (1.0 - transmission[..., None])) / transmission[..., None], scene, atol=1e-5)


@pytest.mark.parametrize("mean", [1.0, 0.7, 0.25])
def test_transmission_has_the_mean_asked_for(mean):
    for seed in range(10):
        transmission = transmission_map(depth_map(64, 48, np.random.default_rng(seed)), mean)
        assert transmission.mean() == pytest.approx(mean, abs=1e-4) and transmission.min() > 0.0 and transmission.max() <= 1.0


def test_farther_is_hazier():
    depth = np.array([[0.5, 1.0], [1.5, 2.0]], np.float32)
    assert (np.diff(transmission_map(depth, 0.5).ravel()) < 0.0).all()


def test_depth_is_smooth():
    depth = depth_map(128, 128, np.random.default_rng(1))
    assert np.abs(np.diff(depth, axis=0)).max() < 0.1 * np.ptp(depth) and depth.min() > 0.0


@pytest.mark.parametrize("seed", range(5))
def test_black_becomes_air_and_the_mean_transmission_is_that_of_the_severity(seed):
    black, white = (haze(np.full((64, 64, 3), value, np.float32), 1.0, np.random.default_rng(seed)) for value in (0.0, 1.0))
    assert (white - black).mean() == pytest.approx(0.25, abs=1e-3)
    assert 0.7 < (black / (1.0 - (white - black))).mean() <= 1.0
