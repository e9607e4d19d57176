"""PSNR and SSIM against the formula, scikit-image and pyiqa."""

import math

import numpy as np
import pyiqa
import pytest
import torch
from skimage.metrics import structural_similarity

from mimdit.evaluation.metrics import identical, psnr, ssim


def pair(size: int = 48, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth truth and a noisy version that leaves 0..1 in places."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.interpolate(torch.rand(batch, 3, 6, 6, generator=generator), size=size, mode="bicubic").clamp(0, 1)
    return truth + torch.randn(truth.shape, generator=generator) * torch.tensor([0.02, 0.1, 0.3])[:batch, None, None, None], truth


def as_bytes(images: torch.Tensor) -> np.ndarray:
    return np.rint(images.clamp(0, 1).numpy() * 255).astype(np.uint8)


def test_psnr_is_the_formula_on_eight_bit_values():
    images, truth = pair()
    for value, a, b in zip(psnr(images, truth), as_bytes(images), as_bytes(truth)):
        error = np.mean((a.astype(np.float64) - b) ** 2)
        assert value.item() == pytest.approx(10 * math.log10(255**2 / error), abs=1e-4)


def test_psnr_agrees_with_pyiqa_on_rounded_images():
    images, truth = pair()
    rounded = [(torch.from_numpy(as_bytes(side)).float() / 255) for side in (images, truth)]
    torch.testing.assert_close(psnr(images, truth), pyiqa.create_metric("psnr", device="cpu")(*rounded).flatten(), rtol=0, atol=2e-3)


def test_what_rounds_to_the_same_bytes_is_identical():
    truth = torch.full((1, 3, 16, 16), 100 / 255)
    assert psnr(truth + 0.4 / 255, truth).item() == 100
    assert ssim(truth + 0.4 / 255, truth).item() == pytest.approx(1)


def test_identical_is_by_image_and_by_bytes():
    truth = torch.full((2, 3, 16, 16), 100 / 255)
    images = truth + torch.tensor([0.4, 0.6])[:, None, None, None] / 255
    assert identical(images, truth).tolist() == [True, False]


def test_no_pair_is_better_than_identical():
    truth = torch.zeros(1, 3, 256, 256)
    almost = truth.clone()
    almost[0, 0, 0, 0] = 1 / 255
    assert psnr(almost, truth).item() == 100


def test_ssim_agrees_with_scikit_image_in_rgb():
    images, truth = pair()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": 0}
    expected = [structural_similarity(a, b, **settings) for a, b in zip(as_bytes(images), as_bytes(truth))]
    np.testing.assert_allclose(ssim(images, truth).numpy(), expected, atol=2e-5)


def test_an_image_is_scored_alike_alone_and_in_a_batch():
    images, truth = pair()
    for metric in (psnr, ssim):
        alone = torch.cat([metric(images[i : i + 1], truth[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(metric(images, truth), alone)


def test_other_shapes_and_tiny_images_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 3, 10, 40), torch.zeros(1, 3, 10, 40))


def test_ssim_agrees_with_pyiqa_in_rgb():
    images, truth = pair()
    rounded = [(torch.from_numpy(as_bytes(side)).float() / 255) for side in (images, truth)]
    expected = pyiqa.create_metric("ssim", device="cpu", test_y_channel=False)(*rounded).flatten().float()
    # pyiqa clips negative structure to zero, which only the noisiest of the three images has.
    torch.testing.assert_close(ssim(images, truth)[:2], expected[:2], rtol=0, atol=1e-3)
