"""JPEG by a real encoder."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.degradations.jpeg import compress, jpeg, jpeg_quality
from datamodules.made.photographs import photograph_crop


@pytest.mark.parametrize("quality", [10, 45, 90])
def test_equals_pillow_at_that_quality(quality):
    pixels = photograph_crop("grass", 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    reference = np.asarray(Image.open(file)).astype(int)
    ours = np.rint(compress(pixels.astype(np.float32) / 255.0, quality) * 255.0).astype(int)
    # The libraries' colour conversions and transforms may round differently by a level or so.
    assert np.abs(ours - reference).mean() < 0.5


def test_quality_is_a_geometric_series_of_the_severity():
    assert [jpeg_quality(severity) for severity in (0.0, 0.5, 1.0)] == [90, 30, 10]


def test_has_the_quality_of_its_severity_and_no_chance():
    image = photograph_crop("coins", 256).astype(np.float32) / 255.0
    first, second = (jpeg(image, 0.5, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, compress(image, 30))
