"""Statistics of images: against dense references, and what each degradation does to its own."""

import cv2
import numpy as np
import pytest
import torch

from mimdit.conditioner.image_statistics import (
    NUM_STATISTICS,
    QUANTILES,
    WINDOW,
    _block_grid,
    _directions,
    _gaussian,
    _noise_floor,
    _normalized_luma,
    _Pool,
    _tone,
    _windows,
    image_statistics,
)
from mimdit.core.srgb import LUMA


def photograph(height: int = 96, width: int = 80, seed: int = 1) -> torch.Tensor:
    """A smooth random image ``[1, 3, H, W]`` in 0..1."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0) + 2 * cv2.GaussianBlur(noise, (0, 0), 8.0)
    return torch.from_numpy(np.clip(0.5 + smooth, 0, 1)).permute(2, 0, 1)[None]


def luma_of(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.from_numpy(LUMA)[:, None, None]).sum(dim=1, keepdim=True)


def opponent_of(images: torch.Tensor) -> torch.Tensor:
    luma = luma_of(images)
    return torch.cat([luma, images[:, 2:] - luma, images[:, :1] - luma], dim=1)


def test_each_image_of_a_batch_has_its_own():
    images = torch.cat([photograph(seed=seed) for seed in (1, 2, 3)]) * 2 - 1
    together = image_statistics(images)
    assert together.shape == (3, NUM_STATISTICS) and together.isfinite().all()
    torch.testing.assert_close(together, torch.cat([image_statistics(image[None]) for image in images]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image", [torch.zeros(1, 3, 8, 8), torch.rand(1, 3, 16, 8), torch.ones(1, 3, 40, 64), -torch.ones(1, 3, 8, 16)])
def test_flat_and_small_images_have_finite_ones(image):
    assert image_statistics(image).isfinite().all()


def test_a_large_image_is_represented_by_aligned_windows_from_border_to_border():
    rows, columns = torch.arange(1000.0), torch.arange(1203.0)
    image = torch.stack([rows[:, None].expand(1000, 1203), columns[None].expand(1000, 1203), torch.zeros(1000, 1203)])[None]
    cut = _windows(image)
    assert cut.shape == (16, 3, WINDOW, WINDOW)
    corners = cut[:, :2, 0, 0]
    assert (corners % 16 == 0).all() and corners[0].tolist() == [0, 0] and corners[-1].tolist() == [832, 1040]
    assert _windows(image[:, :, :600, :600]).shape == (1, 3, 600, 600)
    large = torch.nn.functional.interpolate(photograph(), scale_factor=12) * 2 - 1  # more than 640 x 640
    torch.testing.assert_close(image_statistics(large), image_statistics(torch.cat([large, large]))[:1], rtol=1e-4, atol=1e-5)


def test_the_tone_is_in_quantiles_and_the_dark_channel():
    image = photograph()
    pixels = image[0].permute(1, 2, 0).numpy()
    quantiles, air, spread, transmission = _tone(image, _Pool(1))
    darkest = pixels.min(axis=2)
    window = cv2.erode(darkest, np.ones((7, 7)), borderType=cv2.BORDER_REPLICATE)
    maps = [pixels[..., 0], pixels[..., 1], pixels[..., 2], darkest, pixels.max(axis=2), np.ptp(pixels, axis=2), window]
    expected = np.concatenate([np.quantile(each, QUANTILES) for each in maps])
    np.testing.assert_allclose(quantiles[0, : len(expected)].numpy(), expected, atol=1e-5)
    brightest = np.argsort(darkest.ravel())[-(darkest.size // 100) :]
    np.testing.assert_allclose(air[0].numpy(), pixels.reshape(-1, 3)[brightest].mean(axis=0), atol=1e-5)
    assert spread.item() == pytest.approx(np.ptp(air.numpy()), abs=1e-6)
    assert transmission.item() == pytest.approx(1 - darkest.mean() / air.max().item(), abs=1e-5)


def test_the_grid_of_jpeg_stands_out():
    pixels = (photograph(96, 96)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    decoded = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_COLOR)
    for name, image, largest in (("as it was", pixels, (1.0, 1.3)), ("JPEG", decoded, (1.5, 8.0))):
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        across = _block_grid(opponent_of(tensor), luma_of(tensor), _Pool(1))[0][0, 0].item()
        profile = np.abs(np.diff(luma_of(tensor)[0, 0].numpy(), axis=1)).mean(axis=0)[:88].reshape(-1, 8).mean(axis=0)
        assert across == pytest.approx(profile.max() / (profile.mean() + 1e-5), rel=1e-4), name
        assert largest[0] < across < largest[1], name


def test_lines_of_one_direction_have_its_share_of_the_energy():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for place, angle in enumerate(np.pi / 8 * np.arange(8)):
        wave = 0.5 + 0.4 * torch.sin(0.5 * (x * np.cos(angle) + y * np.sin(angle)))[None, None]
        shares = _directions(wave, wave, _Pool(1))[0][0]
        assert shares[place] > 0.9 and shares.sum().item() == pytest.approx(1, abs=1e-4)


def test_white_noise_has_uncorrelated_neighbors():
    noise = 0.05 * torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    lags = torch.cat(_noise_floor(noise, luma_of(noise), _Pool(1))[:5])
    assert lags.abs().max() < 0.02


def test_normalized_luma_against_opencv():
    luma = luma_of(photograph())
    plane = luma[0, 0].numpy()
    mean, square = (cv2.GaussianBlur(values, (9, 9), 1.4, borderType=cv2.BORDER_REPLICATE) for values in (plane, plane**2))
    expected = (plane - mean) / (np.sqrt(np.maximum(square - mean**2, 0)) + 2 / 255)
    found = _normalized_luma(luma, _gaussian(luma, 1.4), _Pool(1))
    assert found[0].item() == pytest.approx(np.abs(expected).mean(), rel=1e-3)
    assert found[1].item() == pytest.approx((expected**2).mean(), rel=1e-3)
    kurtosis = np.log((expected**4).mean() + 1e-4) - 2 * np.log((expected**2).mean() + 1e-4)
    assert found[2].item() == pytest.approx(kurtosis, abs=1e-3)
    products = [(expected[:, 1:] * expected[:, :-1]), (expected[1:] * expected[:-1]), (expected[1:, 1:] * expected[:-1, :-1])]
    products.append(expected[1:, :-1] * expected[:-1, 1:])
    np.testing.assert_allclose(torch.cat(found[4:], dim=1)[0].numpy(), [product.mean() for product in products], atol=1e-4)
