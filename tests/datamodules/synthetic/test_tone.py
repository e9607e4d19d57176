"""The final tone of a scene."""

import numpy as np
import pytest

from datamodules.synthetic.scenes import make_scene
from datamodules.synthetic.tone import MOODS, random_tone, retone


def test_median_follows_the_draw_and_not_the_input():
    dim = np.random.default_rng(0).uniform(0.0, 0.01, (32, 32, 3)).astype(np.float32)
    # Stretched to its own range, an image and the same image ten times as bright come out alike unless the range is tiny.
    bright = [random_tone(dim * 100, np.random.default_rng(seed)) for seed in range(20)]
    brighter = [random_tone(dim * 1000, np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(bright, brighter, strict=True))


def test_medians_span_dark_to_bright():
    image = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    medians = np.array([np.median(random_tone(image, np.random.default_rng(seed))) for seed in range(300)]) / 255.0
    assert medians.min() < 0.1 and medians.max() > 0.7 and 0.3 < np.median(medians) < 0.5


def test_scenes_are_as_dull_as_photographs_and_no_duller():
    """Against what was read off two dozen photographs: haze is told from paleness by black and white."""
    scenes = np.stack([make_scene(64, seed=seed) for seed in range(300)]) / 255.0
    lightness = scenes @ np.array([0.299, 0.587, 0.114])
    darkest, white = np.percentile(scenes.min(axis=3), 1, axis=(1, 2)), np.percentile(lightness, 99, axis=(1, 2))
    assert 0.1 < np.percentile(darkest, 95) < 0.2  # 0.15
    assert 0.8 < np.median(white) < 0.95 and np.percentile(white, 25) > 0.7  # 0.9, 0.8
    assert 0.16 < np.median(lightness.std(axis=(1, 2))) < 0.22  # 0.19


def test_retoned_photographs_are_plain_dark_dull_foggy_and_tinted():
    image = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    toned = np.stack([retone(image, np.random.default_rng(seed)) for seed in range(400)])
    assert toned.dtype == np.float32 and toned.min() >= 0.0 and toned.max() <= 1.0
    means, lowest = toned.mean(axis=(1, 2, 3)), np.percentile(toned, 1, axis=(1, 2, 3))
    spread = np.percentile(toned, 99, axis=(1, 2, 3)) - lowest
    tint = np.ptp(np.log(toned.mean(axis=(1, 2))), axis=1)
    for share, few, many in (((means < 0.3).mean(), 0.1, 0.3), ((lowest > 0.2).mean(), 0.1, 0.3), ((tint > 0.15).mean(), 0.08, 0.25)):
        assert few < share < many
    assert 0.1 < (spread < 0.4).mean() < 0.5


def test_retoning_a_smooth_image_makes_no_bands():
    ramp = np.broadcast_to(np.linspace(0.4, 0.5, 64, dtype=np.float32)[None, :, None], (64, 64, 3))
    steepest = max(np.abs(np.diff(retone(ramp, np.random.default_rng(seed)), axis=1)).max() for seed in range(100))
    assert steepest < 3 * 0.1 / 63


def test_the_moods_shares_add_up():
    assert sum(mood.share for mood in MOODS.values()) == pytest.approx(1.0)
