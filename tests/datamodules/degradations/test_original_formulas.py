"""The original formulas make the bytes that they always made."""

import hashlib

import cv2
import numpy as np
import pytest

from datamodules.degradations import degrade

# Beginnings of the SHA-256 of the outputs below, from before there were other formulas; OpenCV 5.0 and NumPy 2.4 on x86-64.
PINNED = {
    "00Clean": "6e4fc03e8a454120",
    "01Blur": "623e2a4a13e4312e",
    "02Blur_Noise": "50e6435bba6300c9",
    "03Blur_JPEG": "6f53563202e3127d",
    "04Blur_Noise_JPEG": "2e5e5ececda94f40",
    "05Noise": "cd30935dd5e44965",
    "06JPEG": "d3cba9c9b455abad",
    "07Noise_JPEG": "bd8515a67427d133",
    "08Haze": "d966b0e67a215232",
    "09Lowlight_Haze": "2c29b58fba90728e",
    "10Rain": "a123418f899ab185",
    "11Raindrop": "b11b86f8ee7ee5c2",
    "12NightRain": "8443ab23dda3d812",
    "13Rain_Haze": "ccf84a3bf86afb3f",
    "14Lowlight": "eabe30b3c47b4be6",
    "15Lowlight_Blur": "3bea0516fef39a12",
    "16Lowlight_Noise": "3555e16ed2466934",
    "17Lowlight_JPEG": "13c77bb89e36185b",
    "18Lowlight_Blur_Noise": "1a58f92af53c1172",
    "19Lowlight_Blur_JPEG": "9e174e0e1466a92d",
    "20Lowlight_Noise_JPEG": "0c7779acd7696ad1",
}


@pytest.mark.parametrize("group", PINNED)
def test_original_formulas_make_pinned_bytes(group):
    image = cv2.resize(np.random.default_rng(0).random((24, 32, 3), dtype=np.float32), (128, 96), interpolation=cv2.INTER_LINEAR)
    digest = hashlib.sha256()
    for severity in (0.0, 0.2, 0.5, 1.0):
        for seed in (0, 1, 2, 12345):
            digest.update(degrade(image, group, severity=severity, seed=seed).tobytes())
    assert digest.hexdigest()[:16] == PINNED[group]
