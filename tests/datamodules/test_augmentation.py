"""Crops and flips are aligned, complete and named by their generator."""

import numpy as np
import pytest

from datamodules.augmentation import crop_and_flip
from datamodules.decoding import BadSampleError, Pair
from datamodules.rng import named_rng
from tests.datamodules.made_shards import made_image

IMAGE = made_image("a", 12, 16)
PAIR = Pair("k", "g", IMAGE, 255 - IMAGE, np.zeros(7, np.float32))


def test_both_images_get_the_same_window():
    for draw in range(20):
        cut = crop_and_flip(PAIR, 5, named_rng(draw))
        assert cut.lq.shape == (5, 5, 3)
        assert np.array_equal(cut.gt, 255 - cut.lq)


def test_a_window_is_a_window_of_the_image():
    windows = {IMAGE[y : y + 5, x : x + 5].tobytes() for y in range(8) for x in range(12)}
    drawn = {crop_and_flip(PAIR, 5, named_rng(draw), flip=False).lq.tobytes() for draw in range(2000)}
    assert drawn == windows


def test_all_eight_turns_and_mirrors_occur():
    square = Pair("k", "g", IMAGE[:12, :12], IMAGE[:12, :12], PAIR.degradation)
    drawn = {crop_and_flip(square, 12, named_rng(draw)).lq.tobytes() for draw in range(200)}
    turned = [np.rot90(square.lq, turns) for turns in range(4)]
    assert drawn == {image.tobytes() for image in turned + [image[:, ::-1] for image in turned]}


def test_an_image_below_the_crop_is_named():
    with pytest.raises(BadSampleError, match="k are 16x12, smaller than the crop of 13"):
        crop_and_flip(PAIR, 13, named_rng(0))
