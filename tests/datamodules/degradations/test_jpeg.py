"""JPEG by a real encoder."""

import io

import numpy as np
import pytest
from PIL import Image

from datamodules.degradations.jpeg import compress, encode, jpeg, jpeg_quality, quantization_tables
from datamodules.synthetic.photographs import photograph_crop


@pytest.mark.parametrize("quality", [10, 45, 90])
def test_equals_pillow_at_that_quality(quality):
    pixels = photograph_crop("grass", 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    reference = np.asarray(Image.open(file)).astype(int)
    ours = np.rint(compress(pixels.astype(np.float32) / 255.0, quality) * 255.0).astype(int)
    # The libraries' color conversions and transforms may round differently by a level or so.
    assert np.abs(ours - reference).mean() < 0.5


def test_quality_is_a_geometric_series_of_the_severity():
    assert [jpeg_quality(severity) for severity in (0.0, 0.5, 1.0)] == [90, 30, 10]


def test_has_the_quality_of_its_severity_and_no_chance():
    image = photograph_crop("coins", 256).astype(np.float32) / 255.0
    first, second = (jpeg(image, 0.5, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, compress(image, 30))


def test_tables_are_scaled_by_the_rule_of_the_ijg():
    luma, chroma = quantization_tables(50, 1.0, 10.0, 2.0)
    assert luma[:3] == [10, 20, 30] and luma[8] == 20 and luma[63] == 150 and chroma[1] == 40
    assert quantization_tables(25, 1.0, 10.0, 2.0)[0][:2] == [20, 40] and quantization_tables(75, 1.0, 10.0, 2.0)[0][:2] == [5, 10]


def test_file_holds_the_tables_given():
    file = io.BytesIO()
    given = quantization_tables(40, 0.5, 8.0, 1.5)
    Image.fromarray(photograph_crop("coins", 256)).save(file, "JPEG", qtables=given)
    assert sorted(map(tuple, Image.open(file).quantization.values())) == sorted(map(tuple, given))


def test_full_chroma_keeps_what_halved_chroma_loses():
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2], stripes[:, 1::2] = (0.8, 0.2, 0.3), (0.2, 0.6, 0.3)
    full, halved = (np.abs(encode(stripes, "JPEG", quality=95, subsampling=kind) - stripes).mean() for kind in ("4:4:4", "4:2:0"))
    assert full < 0.02 < 0.1 < halved
