"""Kernels of defocus and motion, and the convolution with them."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from datamodules.degradations.blur import (
    LARGEST_SPREAD,
    aperture_kernel,
    blur,
    convolve,
    defocus_kernel,
    gaussian_kernel,
    line_kernel,
    motion_kernel,
)
from mimdit.core.srgb import to_linear, to_srgb


def moments(kernel):
    reach = kernel.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    mean = np.array([(kernel * y).sum(), (kernel * x).sum()])
    return mean, (kernel * (y**2 + x**2)).sum() / 2.0 - (mean**2).mean()


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.5])
def test_kernels_sum_to_one_and_have_the_spread(spread):
    kernels = [defocus_kernel(spread), *(motion_kernel(spread, np.random.default_rng(seed)) for seed in range(5))]
    kernels += [gaussian_kernel(spread, 1.0, 0.0), gaussian_kernel(spread, 0.3, 0.7), line_kernel(spread, 0.4)]
    kernels += [aperture_kernel(spread, 6, 0.3, 0.0, 1.0), aperture_kernel(spread, 5, 1.0, 0.4, 0.0)]
    for kernel in kernels:
        assert kernel.min() >= 0.0 and kernel.sum() == pytest.approx(1.0, abs=1e-5)
        mean, variance = moments(kernel)
        assert np.abs(mean).max() < 1e-4
        # Bilinear weights add at most 1/4 to the variance per axis (half a pixel between two samples).
        assert spread**2 * 0.97 <= variance <= spread**2 * 1.03 + 0.25


def test_defocus_is_an_even_disk():
    kernel = defocus_kernel(3.0)
    reach = kernel.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inner, outer = np.hypot(y, x) < 4.0, np.hypot(y, x) > 8.0
    assert kernel[inner] == pytest.approx(1.0 / (np.pi * 36.0), rel=0.12) and kernel[outer].max() == 0.0


def test_motion_is_a_thin_path_and_not_a_disk():
    areas = [(motion_kernel(3.5, np.random.default_rng(seed)) > 0).sum() for seed in range(20)]
    assert np.median(areas) < 0.5 * (defocus_kernel(3.5) > 0).sum()


def test_equals_a_plain_convolution_of_light():
    image = np.random.default_rng(0).random((40, 44, 3), dtype=np.float32)
    kernel = motion_kernel(2.0, np.random.default_rng(1))
    reach = kernel.shape[0] // 2
    padded = np.pad(to_linear(image), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    reference = np.stack([convolve2d(padded[..., c], kernel, mode="valid") for c in range(3)], axis=-1)
    np.testing.assert_allclose(convolve(image, kernel), to_srgb(reference), atol=2e-5)


@pytest.mark.parametrize("seed", range(6))
def test_light_is_preserved(seed):
    # A dim image with a dark border, which mirroring cannot double: all of its light must come back.
    image = np.zeros((96, 96, 3), np.float32)
    image[32:64, 32:64] = np.random.default_rng(seed).random((32, 32, 3))
    blurred = blur(image, 1.0, np.random.default_rng(seed))
    assert to_linear(blurred).mean() == pytest.approx(to_linear(image).mean(), rel=1e-3)


def test_largest_spread_is_reached_at_severity_one():
    point = np.zeros((65, 65, 3), np.float32)
    point[32, 32] = 1.0
    image = to_linear(blur(point, 1.0, np.random.default_rng(0)))[..., 0]
    assert np.sqrt(moments(image / image.sum())[1]) == pytest.approx(LARGEST_SPREAD, abs=0.1)


def test_gaussian_kernel_has_its_ratio_and_direction():
    kernel = gaussian_kernel(3.0, 0.4, 0.6)
    reach = kernel.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    variances, axes = np.linalg.eigh(np.cov(np.stack([x.ravel(), y.ravel()]), aweights=kernel.ravel(), ddof=0))
    assert np.sqrt(variances[0] / variances[1]) == pytest.approx(0.4, rel=0.05)
    assert abs(axes[:, 1] @ [np.cos(0.6), np.sin(0.6)]) > 0.999


def test_aperture_can_hide_its_middle_and_has_corners():
    ring = aperture_kernel(3.5, 8, 0.0, 0.5, 0.0)
    middle = ring.shape[0] // 2
    assert ring[middle, middle] == 0.0
    triangle = aperture_kernel(3.5, 3, 0.0, 0.0, 0.0)
    # A triangle covers 3 sqrt(3) / 4 of the squared radius of its corners, whose mean square per axis is an eighth of it.
    assert (triangle > 0.5 * triangle.max()).sum() == pytest.approx(3.0 * 3.0**0.5 / 4.0 * 8.0 * 3.5**2, rel=0.15)
