"""Blending of a result with its original."""

import numpy as np
import pytest
from PIL import Image

from mimdit.restorer.blending import blend, brightness, feathered


def images(dtype, height=9, width=11):
    rng = np.random.default_rng(0)
    return [rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True) for _ in range(2)]


def decoded(value):
    """IEC 61966-2-1, in double precision."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encoded(light):
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("amount", [0.25, 0.8])
def test_light_is_mixed_not_its_encoding(dtype, amount):
    (restored, original), most = images(dtype), np.iinfo(dtype).max
    light = amount * decoded(restored / most) + (1 - amount) * decoded(original / most)
    assert np.abs(blend(restored.copy(), original, amount=amount) - encoded(light) * most).max() <= 0.500001


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_amounts_of_nothing_and_all_are_exact(dtype):
    restored, original = images(dtype)
    assert np.array_equal(blend(restored.copy(), original, amount=0), original)
    assert np.array_equal(blend(restored.copy(), original, amount=1), restored)


def test_a_mask_keeps_black_and_replaces_white_exactly_and_mixes_gray():
    restored, original = images(np.uint8)
    mask = np.repeat(np.array([[0.0] * 4 + [0.5] * 3 + [1.0] * 4], np.float32), 9, axis=0)
    result = blend(restored.copy(), original, mask=mask)
    assert np.array_equal(result[:, :4], original[:, :4]) and np.array_equal(result[:, 7:], restored[:, 7:])
    assert np.array_equal(result[:, 4:7], blend(restored.copy(), original, amount=0.5)[:, 4:7])


def test_a_masks_brightness_is_the_mean_of_the_channels_and_black_where_it_is_transparent():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0], pixels[1, 2] = (255, 255, 255), (90, 30, 0)
    assert brightness(pixels).tolist() == [[255, 0, 0], [0, 0, 40]]
    alpha = np.array([[0, 255, 255], [255, 255, 51]], np.uint8)
    assert brightness(pixels, alpha).tolist() == [[0, 0, 0], [0, 0, 8]]


def test_a_feathered_edge_rises_on_the_white_side_with_the_distance_from_black():
    mask = np.zeros((5, 12), np.uint8)
    mask[:, 4:] = 255
    shares = feathered(mask, 3)
    np.testing.assert_allclose(shares, np.repeat([[0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]], 5, axis=0))
    assert np.array_equal(feathered(mask, 0), mask / 255)


def test_a_mask_without_black_has_no_edge():
    assert np.array_equal(feathered(np.full((4, 4), 65535, np.uint16)), np.ones((4, 4)))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"amount": 1.5}, "amount=1.5 is outside 0..1"),
        ({"amount": -0.1}, "amount=-0.1 is outside 0..1"),
        ({"amount": float("nan")}, "amount=nan is outside 0..1"),
        ({"mask": np.zeros((11, 9), np.float32)}, "the mask has 9x11 pixels and the image 11x9"),
    ],
)
def test_an_amount_or_a_mask_that_does_not_suit_the_image_is_refused(options, words):
    restored, original = images(np.uint8)
    with pytest.raises(ValueError, match=words):
        blend(restored, original, **options)


def test_a_negative_feather_is_refused():
    with pytest.raises(ValueError, match="feather=-1 is negative"):
        feathered(np.asarray(Image.new("L", (4, 4))), -1)
