"""Corrections in two parts."""

import cv2
import numpy as np
import pytest
import torch

from mimdit.core import canvas
from mimdit.restorer.correction import SIGMA, corrected, low_pass


def images(*size: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def blurred(image: torch.Tensor) -> np.ndarray:
    """``[3, H, W]`` through OpenCV's Gaussian of the same reach."""
    return cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (25, 25), SIGMA, borderType=cv2.BORDER_REPLICATE)


def test_none_and_all_of_a_correction_are_the_two_images_to_the_bit():
    before, after, share_B = images(3, 3, 20, 30), images(3, 3, 20, 30, seed=2), torch.tensor([0.0, 1.0, 0.25])
    result = corrected(before, after, fine_B=share_B, tone_B=share_B)
    assert torch.equal(result[0], before[0]) and torch.equal(result[1], after[1])
    torch.testing.assert_close(result[2], 0.75 * before[2] + 0.25 * after[2])


@pytest.mark.parametrize("rows", [7, 1000])
def test_each_part_has_its_share(rows, monkeypatch):
    """Against OpenCV on the whole image, for rows at a time too."""
    monkeypatch.setattr(canvas, "_AT_ONCE", rows * 40)
    before, after = images(3, 3, 30, 40), images(3, 3, 30, 40, seed=2)
    fine_B, tone_B = torch.tensor([1.0, 0.75, 0.0]), torch.tensor([0.0, 0.25, 0.5])
    result = corrected(before, after, fine_B=fine_B, tone_B=tone_B)
    for index in range(3):
        change = after[index] - before[index]
        tone = torch.from_numpy(blurred(change)).permute(2, 0, 1)
        expected = before[index] + fine_B[index] * (change - tone) + tone_B[index] * tone
        torch.testing.assert_close(result[index], expected.clamp(0, 1), rtol=0, atol=1e-5)


def test_a_small_correction_is_enlarged_smoothly():
    small = images(1, 3, 9, 11)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)[:, :, :26, :32]
    rows = torch.cat([low_pass(small, slice(a, b), (26, 32), scale=3) for a, b in ((0, 7), (7, 26))], dim=2)
    np.testing.assert_allclose(rows[0].permute(1, 2, 0).numpy(), blurred(large[0]), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):  # mimdit restore --dtype=bfloat16
        assert torch.equal(low_pass(small, slice(0, 7), (26, 32), scale=3), rows[:, :, :7])
