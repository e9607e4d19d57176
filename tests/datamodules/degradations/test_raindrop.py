"""Drops on the lens."""

import numpy as np
import pytest

from datamodules.degradations.raindrop import raindrop


def covered(image, severity, seed):
    return np.abs(raindrop(image, severity, np.random.default_rng(seed)) - image).max(axis=2) > 1e-6


@pytest.fixture(scope="module")
def texture():
    return np.random.default_rng(0).random((128, 160, 3), dtype=np.float32)


def test_outside_the_drops_nothing_changes(texture):
    share = [covered(texture, 0.5, seed).mean() for seed in range(5)]
    assert all(0.05 < value < 0.35 for value in share)


def test_coverage_grows_with_the_severity_and_drops_stay(texture):
    few, some, many = (covered(texture, severity, 3) for severity in (0.2, 0.6, 1.0))
    assert few.mean() < some.mean() < many.mean() and not (few & ~some).any() and not (some & ~many).any()


def test_shows_the_scene_upside_down():
    # A vertical ramp: inside drops it falls where outside it rises.
    ramp = np.repeat(np.linspace(0.2, 0.8, 128, dtype=np.float32)[:, None, None], 128, axis=1) * np.ones(3, np.float32)
    changes = []
    for seed in range(10):
        mask = covered(ramp, 0.3, seed)
        inner = mask[2:] & mask[1:-1] & mask[:-2]
        slope = (raindrop(ramp, 0.3, np.random.default_rng(seed))[2:] - raindrop(ramp, 0.3, np.random.default_rng(seed))[:-2])[..., 0]
        changes.append(np.median(slope[inner]))
    assert np.median(changes) < 0.0


def test_content_is_out_of_focus(texture):
    wet = raindrop(texture, 1.0, np.random.default_rng(1))
    mask = covered(texture, 1.0, 1)
    # White noise varies strongly from pixel to pixel; what a drop shows of it does not.
    pairs = mask[:, 1:] & mask[:, :-1]
    assert np.abs(np.diff(wet, axis=1))[pairs].mean() < 0.5 * np.abs(np.diff(texture, axis=1))[pairs].mean()
