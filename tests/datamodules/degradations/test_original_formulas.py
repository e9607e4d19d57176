"""The original formulas make the bytes that they always made."""

import hashlib
import json

import cv2
import numpy as np
import pytest

from datamodules.degradations import degrade
from tests.datamodules.plain_process import printed

# Beginnings of the SHA-256 of the outputs below, in a plain process; OpenCV 5.0 and NumPy 2.4.
PINNED = {
    "00Clean": "14a3a4f1333e9262",
    "01Blur": "a318b395cef4960c",
    "02Blur_Noise": "ec7f377dc5c25a58",
    "03Blur_JPEG": "6f53563202e3127d",
    "04Blur_Noise_JPEG": "fc34cd715f76bd25",
    "05Noise": "94c21be078a6dc56",
    "06JPEG": "d3cba9c9b455abad",
    "07Noise_JPEG": "bd8515a67427d133",
    "08Haze": "bbc7050224c9ed8f",
    "09Lowlight_Haze": "1bfb3d2f31fd773d",
    "10Rain": "177de01acb8a255f",
    "11Raindrop": "e71b89d142d5b9ca",
    "12NightRain": "1604749b45ada7b9",
    "13Rain_Haze": "1d806a731810fae0",
    "14Lowlight": "8e0399607cf89170",
    "15Lowlight_Blur": "02884a57e6700548",
    "16Lowlight_Noise": "5af8a1821606e335",
    "17Lowlight_JPEG": "13c77bb89e36185b",
    "18Lowlight_Blur_Noise": "8e11bbd8b6046e28",
    "19Lowlight_Blur_JPEG": "9e174e0e1466a92d",
    "20Lowlight_Noise_JPEG": "0c7779acd7696ad1",
}


def digest(group: str) -> str:
    image = cv2.resize(np.random.default_rng(0).random((24, 32, 3), dtype=np.float32), (128, 96), interpolation=cv2.INTER_LINEAR)
    sha256 = hashlib.sha256()
    for severity in (0.0, 0.2, 0.5, 1.0):
        for seed in (0, 1, 2, 12345):
            sha256.update(degrade(image, group, severity=severity, seed=seed).tobytes())
    return sha256.hexdigest()[:16]


@pytest.fixture(scope="module")
def digests():
    return printed(__name__)


@pytest.mark.parametrize("group", PINNED)
def test_original_formulas_make_pinned_bytes(group, digests):
    assert digests[group] == PINNED[group]


if __name__ == "__main__":
    cv2.setNumThreads(1)
    print(json.dumps({group: digest(group) for group in PINNED}))
