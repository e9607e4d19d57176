"""FID against its formula and KID against its kernel, on features that are given."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from mimdit.evaluation.iqa.fid_kid import set_distances


def features(number: int, shift: float) -> np.ndarray:
    rng = np.random.default_rng(int(10 * shift))
    return (rng.normal(size=(number, 6)) @ rng.normal(size=(6, 6)) + shift).astype(np.float32)


def test_fid_is_the_frechet_distance_of_two_gaussians():
    a, b = features(60, 0.0).astype(np.float64), features(60, 0.5).astype(np.float64)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    scores, notes = set_distances(["fid"], a.astype(np.float32), b.astype(np.float32))
    assert scores["fid"] == pytest.approx(expected, rel=1e-4) and not notes


def test_kid_is_the_unbiased_discrepancy_of_cubic_kernels_and_the_same_each_time():
    a, b = features(40, 0.0), features(40, 0.5)
    n = len(a)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x.astype(np.float64) @ y.T.astype(np.float64) / 6 + 1) ** 3

    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1)) for x in (a, b))
    scores, _ = set_distances(["kid"], a, b)  # a subset of 40 is all of them
    assert scores["kid"] == pytest.approx(within - 2 * kernel(a, b).mean(), rel=1e-3)
    large = features(150, 0.0), features(150, 0.5)
    assert set_distances(["kid"], *large) == set_distances(["kid"], *large)


def test_one_image_is_no_set():
    assert set_distances(["fid", "kid"], features(1, 0), features(1, 1)) == (
        {"fid": None, "kid": None},
        dict.fromkeys(("fid", "kid"), "needs at least two images"),
    )
