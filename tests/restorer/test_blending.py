"""Blending with the original in linear light, against a reference of its own."""

import numpy as np
import pytest

from mimdit.restorer.blending import blend, feathered


def reference(original, restored, share):
    """The blend by the definition of sRGB, value by value in Python's floats."""
    most = np.iinfo(original.dtype).max

    def light(value):
        value = int(value) / most
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    def one(a, b, w):
        mixed = (1 - w) * light(a) + w * light(b)
        return round(most * (mixed * 12.92 if mixed <= 0.0031308 else 1.055 * mixed ** (1 / 2.4) - 0.055))

    return np.vectorize(one, otypes=[original.dtype])(original, restored, share)


def pair(dtype, height=9, width=11, channels=3):
    rng = np.random.default_rng(0)
    return (rng.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True) for _ in range(2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("amount", [0.1, 0.5, 0.83])
def test_an_amount_is_a_share_of_light(dtype, amount):
    original, restored = pair(dtype)
    assert np.array_equal(blend(original, restored, amount), reference(original, restored, amount))


def test_half_of_black_and_white_is_half_the_light_not_half_the_value():
    black, white = np.zeros((1, 1, 1), np.uint8), np.full((1, 1, 1), 255, np.uint8)
    assert blend(black, white, 0.5) == 188


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_comes_back_exactly_at_zero_and_at_one(dtype):
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1, 1)
    other, weights = values[::-1].copy(), np.zeros(values.shape[:2], np.float32)
    assert np.array_equal(blend(values, other, 0), values) and np.array_equal(blend(values, other, 1), other)
    assert np.array_equal(blend(values, other, 0.7, weights), values) and np.array_equal(blend(values, other, 1, weights + 1), other)


def test_weights_multiply_the_amount():
    original, restored = pair(np.uint16)
    weights = np.random.default_rng(1).random(original.shape[:2])
    assert np.array_equal(blend(original, restored, 0.6, weights), reference(original, restored, 0.6 * weights[:, :, None]))


def test_the_edge_is_soft_inside_the_white_and_black_stays_zero():
    mask = np.zeros((5, 12), np.uint8)
    mask[:, 4:] = 255
    assert np.allclose(feathered(mask, mask.shape, 3), [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1], atol=1e-6)
    assert np.array_equal(feathered(mask, mask.shape, 0), mask / 255)


def test_without_a_width_the_edge_takes_one_percent_of_the_shorter_side():
    mask = np.ones((300, 400), bool)
    mask[:, :100] = False
    assert np.allclose(feathered(mask, mask.shape)[150, 98:106], [0, 0, 0.25, 0.5, 0.75, 1, 1, 1], atol=1e-6)
    assert np.array_equal(feathered(np.ones((300, 400), bool), (300, 400)), np.ones((300, 400)))


@pytest.mark.parametrize("mask", [np.full((4, 4), 51, np.uint8), np.full((4, 4, 1), 13107, np.uint16), np.full((4, 4, 3), 0.2)])
def test_gray_counts_by_its_value_at_any_depth(mask):
    assert np.allclose(feathered(mask, (4, 4), 2), 0.2)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((4, 5)), "5x4 pixels and the image, upright, 4x4"),
        (np.full((4, 4), 2.0), "from 2 to 2"),
        (np.full((4, 4), np.nan), "floats in 0..1"),
        (np.zeros((4, 4), int), "int64"),
        (np.zeros((4, 4, 2)), r"\[4, 4, 2\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, words):
    with pytest.raises(ValueError, match=words):
        feathered(mask, (4, 4))


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_an_amount_out_of_range_is_refused(amount):
    with pytest.raises(ValueError, match="0 .the original. to 1"):
        blend(*pair(np.uint8), amount)


@pytest.mark.parametrize("feather", [-1, float("inf"), float("nan")])
def test_a_feather_out_of_range_is_refused(feather):
    with pytest.raises(ValueError, match="number of pixels"):
        feathered(np.zeros((4, 4)), (4, 4), feather)
