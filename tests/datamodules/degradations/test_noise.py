"""Noise: the variance of its formula, and the color mosaic of a camera."""

import numpy as np
import pytest

from datamodules.degradations.noise import bayer_masks, camera_noise, demosaic, lost_detail, noise, noise_levels, sensor_noise
from mimdit.core.srgb import to_srgb


@pytest.mark.parametrize("light", [0.02, 0.2, 0.8])
def test_variance_is_shot_times_light_plus_read(light):
    shot, read = 0.01, 1e-4
    plane = np.full((128, 128, 3), light, np.float32)
    variances = [sensor_noise(plane, shot, read, np.random.default_rng(seed)).var() for seed in range(12)]
    assert np.mean(variances) == pytest.approx(shot * light + read, rel=0.02)
    # The draws that correlate channels or neighbors keep the variance too.
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


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_each_pixel_has_one_color_and_half_of_them_are_green(phase):
    masks = bayer_masks(8, 6, phase)
    assert (masks.sum(axis=2) == 1.0).all() and masks.sum(axis=(0, 1)).tolist() == [12.0, 24.0, 12.0]
    assert masks[phase[0], phase[1], 0] == 1.0


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_demosaic_gives_planes_back(phase):
    y, x = np.mgrid[:15, :18].astype(np.float32)
    planes = np.stack([0.01 * x, 0.2 + 0.02 * y, 0.5 - 0.01 * x - 0.01 * y], axis=-1)
    result = demosaic(planes * bayer_masks(15, 18, phase))
    # Mirrored borders bend a plane.
    np.testing.assert_allclose(result[1:-1, 1:-1], planes[1:-1, 1:-1], atol=1e-6)


def test_gray_loses_nothing_to_the_mosaic_and_edges_do():
    gray = np.full((15, 18, 3), 0.4, np.float32)
    np.testing.assert_allclose(lost_detail(gray, np.random.default_rng(0)), 0.0, atol=1e-6)
    gray[:, 9:] = 0.8
    assert np.abs(lost_detail(gray, np.random.default_rng(0))).max() > 0.05


@pytest.mark.parametrize("light", [0.02, 0.3])
def test_variance_is_shot_times_light_plus_read_in_the_mean_of_the_channels(light):
    plane = np.full((160, 160, 3), light, np.float32)
    noises = [camera_noise(plane, 0.01, 1e-4, np.random.default_rng(seed)) for seed in range(6)]
    assert np.mean([noise.var(axis=(0, 1)) for noise in noises]) == pytest.approx(0.01 * light + 1e-4, rel=0.03)
    assert abs(np.mean(noises)) < 0.01 * np.std(noises)


def test_red_and_blue_are_noisier_than_green_and_neighbors_are_correlated():
    plane = np.full((128, 128, 3), 0.3, np.float32)
    for seed in range(6):
        noise = camera_noise(plane, 0.01, 0.0, np.random.default_rng(seed))
        red, green, blue = noise.var(axis=(0, 1))
        assert min(red, blue) > green
        assert np.corrcoef(noise[:, 1:, 0].ravel(), noise[:, :-1, 0].ravel())[0, 1] > 0.3
