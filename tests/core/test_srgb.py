"""The sRGB transfer curve."""

import numpy as np
import pytest

from mimdit.core.srgb import to_linear, to_srgb


def test_known_values():
    # IEC 61966-2-1: 0.04045 / 12.92, and ((0.5 + 0.055) / 1.055) ** 2.4.
    np.testing.assert_allclose(to_linear(np.float32([0.0, 0.04045, 0.5, 1.0])), [0.0, 0.0031308, 0.2140411, 1.0], atol=1e-6)


def test_encoding_undoes_decoding():
    values = np.linspace(0.0, 1.0, 1001, dtype=np.float32)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-6)


def test_light_outside_the_range_is_clipped():
    assert to_srgb(np.float32([-0.5, 2.0])).tolist() == pytest.approx([0.0, 1.0])
