"""The photographs of validation and test."""

import numpy as np
import pytest
import skimage.data
import skimage.io

from datamodules.synthetic.photographs import TEST, VALIDATION, load_photograph, photograph_crop


def test_lists_are_disjoint_and_without_undefined_exposure():
    assert not set(TEST) & set(VALIDATION)
    assert not {"hubble_deep_field", "retina", "ihc"} & {*TEST, *VALIDATION}


@pytest.mark.parametrize("name", [*TEST, *VALIDATION])
def test_is_rgb_of_256_pixels_or_more(name):
    image = load_photograph(name)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 256


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
def test_equals_what_scikit_image_reads(name):
    reference = getattr(skimage.data, name)()
    reference = np.repeat(reference[..., None], 3, axis=2) if reference.ndim == 2 else reference
    np.testing.assert_array_equal(load_photograph(name), reference)


def test_crop_of_an_even_reduction_is_a_mean_of_blocks():
    blocks = load_photograph("astronaut").reshape(256, 2, 256, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(photograph_crop("astronaut", 256) - blocks).max() <= 0.5


def test_crop_is_the_middle():
    wide = photograph_crop("chelsea", 300)
    np.testing.assert_array_equal(wide, load_photograph("chelsea")[:, 75:375])


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'hubble'.*astronaut"):
        load_photograph("hubble")


def test_crop_beyond_the_photograph_is_refused():
    with pytest.raises(ValueError, match="chelsea is 451x300"):
        photograph_crop("chelsea", 400)
