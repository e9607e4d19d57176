"""Pictures are where they should be, with the values they had."""

import numpy as np
import pytest
import torch

from mimdit.plots.image_strips import Strip, compare_with_truth, draw_strips, readable_group, square


def test_square_keeps_the_bytes_of_the_centre():
    image = torch.rand(3, 20, 32, generator=torch.Generator().manual_seed(0))
    expected = np.rint(image[:, :, 6:26].numpy() * 255).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(square(image, 20)), expected)


def test_larger_images_are_shrunk():
    assert square(torch.zeros(3, 100, 60), 32).size == (32, 32)


def test_all_pictures_are_on_the_sheet():
    pictures = [square(torch.tensor([r, g, 0.2])[:, None, None].expand(3, 64, 64), 64) for r in (0.3, 0.6) for g in (0.4, 0.8)]
    strips = [Strip("a", pictures[:2], ["x", "y"]), Strip("b", pictures[2:], ["x", "y"])]
    for per_line, columns in ((1, None), (2, None), (2, 1)):
        sheet = np.asarray(draw_strips(strips, per_line=per_line, columns=columns))
        for picture in pictures:
            assert (sheet == np.asarray(picture)[0, 0]).all(axis=-1).sum() == 64 * 64


def test_an_empty_sheet_is_an_error():
    with pytest.raises(ValueError, match="no strip"):
        draw_strips([])


def test_a_comparison_has_a_picture_and_a_caption_for_every_version_that_is_there():
    truth = torch.full((3, 16, 16), 0.5)
    images = {"input": truth, "estimate": None, "output": truth + 0.1}
    strip = compare_with_truth("a", images, truth, 16, digits=1)
    assert strip.captions == ["input  100.0 dB", "output  20.2 dB", "truth"] and len(strip.pictures) == 3
    assert compare_with_truth("a", images, None, 16).captions == ["input", "output"]


def test_readable_names():
    assert readable_group("09Lowlight_Haze") == "Lowlight + Haze"
