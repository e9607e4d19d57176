"""Loss of exposure."""

import numpy as np
import pytest

from datamodules.degradations.lowlight import darken, lowlight
from datamodules.synthetic.photographs import photograph_crop
from mimdit.core.srgb import to_linear


def test_an_eighth_of_the_light_is_left_at_severity_one():
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    np.testing.assert_allclose(darken(image, 1.0, 1.0, np.ones(3)), to_linear(image) / 8.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_mean_falls_with_the_severity(seed):
    image = photograph_crop("camera", 256).astype(np.float32) / 255.0
    means = [lowlight(image, severity, np.random.default_rng(seed)).mean() for severity in np.linspace(0.0, 1.0, 9)]
    assert (np.diff(means) < -0.01).all() and means[-1] < 0.45 * means[0]


def test_noise_grows_with_the_severity_and_stays_moderate():
    gray = np.full((96, 96, 3), 0.6, np.float32)
    deviations = [lowlight(gray, severity, np.random.default_rng(2)).std(axis=(0, 1)).mean() for severity in (0.2, 0.5, 1.0)]
    assert deviations == sorted(deviations) and 2.0 / 255.0 < deviations[-1] < 8.0 / 255.0
