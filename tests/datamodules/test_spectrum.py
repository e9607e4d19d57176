"""Power-law noise has the spectrum it says."""

import numpy as np
import pytest

from datamodules.spectrum import power_law_noise


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_amplitudes_fall_with_the_exponent(exponent):
    power = np.zeros((64, 33))
    for seed in range(200):
        power += np.abs(np.fft.rfft2(power_law_noise(64, 64, exponent, np.random.default_rng(seed)))) ** 2
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None])
    inside = (frequency > 0.03) & (np.arange(33) > 0) & (np.arange(33) < 32)
    slope = np.polyfit(np.log(frequency[inside]), 0.5 * np.log(power[inside]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.03)


def test_expected_variance_is_one_and_mean_zero():
    fields = np.stack([power_law_noise(48, 33, 1.0, np.random.default_rng(seed)) for seed in range(400)])
    assert fields.var() == pytest.approx(1.0, abs=0.05)
    assert np.abs(fields.mean(axis=(1, 2))).max() < 1e-5
