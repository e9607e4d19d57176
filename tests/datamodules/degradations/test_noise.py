"""Poisson-Gaussian noise has the variance of its formula."""

import numpy as np
import pytest

from datamodules.degradations.noise import noise, noise_levels, sensor_noise
from datamodules.degradations.srgb import to_srgb


@pytest.mark.parametrize("light", [0.02, 0.2, 0.8])
def test_variance_is_shot_times_light_plus_read(light):
    shot, read = 0.01, 1e-4
    plane = np.full((128, 128, 3), light, np.float32)
    variances = [sensor_noise(plane, shot, read, np.random.default_rng(seed)).var() for seed in range(12)]
    assert np.mean(variances) == pytest.approx(shot * light + read, rel=0.02)
    # The draws that correlate channels or neighbours keep the variance too.
    assert variances == pytest.approx([shot * light + read] * 12, rel=0.08)


def test_mean_is_zero():
    plane = np.full((128, 128, 3), 0.5, np.float32)
    assert abs(np.mean([sensor_noise(plane, 0.01, 0.0, np.random.default_rng(seed)).mean() for seed in range(20)])) < 1e-3


@pytest.mark.parametrize("severity", [0.0, 0.1, 0.3])
def test_deviation_in_srgb_is_linear_in_the_severity(severity):
    gray = to_srgb(np.full((128, 128, 3), 0.3, np.float32))
    deviation = np.mean([(noise(gray, severity, np.random.default_rng(seed)) - gray).std() for seed in range(8)])
    assert deviation == pytest.approx((1.0 + 49.0 * severity) / 255.0, rel=0.15)


def test_severest_level_is_about_50():
    shot, read = noise_levels(1.0)
    assert np.sqrt(shot) / 2.2 == pytest.approx(50.0 / 255.0) and read < 0.01 * shot


def test_channels_are_at_most_mildly_correlated():
    plane = np.full((128, 128, 3), 0.5, np.float32)
    correlations = [np.corrcoef(sensor_noise(plane, 0.01, 0.0, np.random.default_rng(s)).reshape(-1, 3).T)[0, 1] for s in range(20)]
    assert max(correlations) < 0.45 and max(correlations) > 0.1 and min(correlations) < 0.05
