import numpy as np
import pytest

from datamodules.degradations import degrade
from datamodules.degradations.camera_files import camera_file, file_noise
from datamodules.degradations.compose import drawn_formula
from mimdit.core.srgb import LUMA

GRAY = np.full((256, 256, 3), 0.5, np.float32)


@pytest.mark.parametrize(("luma_spread", "color_spread"), [(0.6, 1.5), (0.9, 3.0)])
def test_neighbors_correlate_as_the_kernel_says(luma_spread, color_spread):
    field = file_noise((512, 512), luma_spread=luma_spread, color_spread=color_spread, color=1.3, rng=np.random.default_rng(0))
    luma = field @ LUMA
    red = field[..., 0] - luma
    for plane, spread in ((luma, luma_spread), (red, color_spread)):
        kernel = np.exp(-(np.arange(-20, 21) ** 2) / (2 * spread**2))
        overlap = np.correlate(kernel, kernel, "full") / (kernel @ kernel)
        for distance in (1, 2):
            found = np.corrcoef(plane[:, distance:].ravel(), plane[:, :-distance].ravel())[0, 1]
            assert found == pytest.approx(overlap[40 + distance], abs=0.03)


def test_luma_and_color_have_the_given_deviations():
    field = file_noise((512, 512), luma_spread=0.7, color_spread=2.0, color=1.4, rng=np.random.default_rng(1))
    luma = (field @ LUMA)[..., None]
    assert luma.std() == pytest.approx(1.0, abs=0.03)
    assert np.sqrt(((field - luma) ** 2).mean()) == pytest.approx(1.4, abs=0.01)


def test_the_file_has_the_deviation_of_its_level():
    # At severity 0.2 the level is between 1 + 49 * 0.2 ** 1.5 and 1 + 49 * 0.2, of 255; the encoder takes a part of it away.
    deviations = [255 * (camera_file(GRAY, 0.2, np.random.default_rng(seed)) - GRAY).std() for seed in range(40)]
    assert min(deviations) > 0.8 * 5.4 and max(deviations) < 1.05 * 10.8


def test_shadows_may_be_noisier():
    half = GRAY.copy()
    half[:, :128], half[:, 128:] = 0.25, 0.75
    ratios = []
    for seed in range(40):
        noise = camera_file(half, 0.3, np.random.default_rng(seed)) - half
        ratios.append(noise[:, :120].std() / noise[:, 136:].std())
    # Strengths 1 + s / 4 and 1 - s / 4 with s in -0.3..1.
    assert 0.8 < min(ratios) < 1.0 and 1.4 < max(ratios) < 1.75


def test_only_the_noise_of_the_set_cameras_is_of_files():
    assert {drawn_formula("noise", seed, "cameras") for seed in range(50)} == {"camera_file"}
    assert "camera_file" not in {drawn_formula("noise", seed, "varied") for seed in range(300)}
    assert all(drawn_formula("haze", seed, "cameras") == drawn_formula("haze", seed, "varied") for seed in range(20))
    image = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    same = [degrade(image, "05Noise", severity=0.3, seed=4, formulas="cameras") for _ in range(2)]
    np.testing.assert_array_equal(*same)
