"""NIQE's fitted model: features as pyiqa computes them, its own order of clean, slightly and strongly distorted images, and its errors."""

import numpy as np
import pytest
import torch

from mimdit.evaluation.iqa import Scorer
from mimdit.evaluation.iqa.fitted_niqe import BLOCK, _sharp_features, _sharpness, fit_pristine_model
from mimdit.evaluation.iqa.weights import of_fit


def fractal(seed: int, height: int = 5 * BLOCK, width: int = 5 * BLOCK) -> torch.Tensor:
    """A gray image whose amplitudes fall as 1/f, as those of photographs do."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    spectrum = np.fft.fft2(rng.normal(size=(height, width))) / np.maximum(frequency, 1 / height)
    image = np.fft.ifft2(spectrum).real
    image = (image - image.min()) / (image.max() - image.min())
    return torch.tensor(image, dtype=torch.float32).expand(1, 3, -1, -1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("mimdit.evaluation.iqa.weights.pyiqa_cache", lambda: tmp_path)
    return tmp_path


def test_features_are_pyiqas(monkeypatch):
    from pyiqa.archs import niqe_arch as pyiqa

    monkeypatch.setattr("mimdit.evaluation.iqa.fitted_niqe.SHARPNESS", 0.0)
    image = fractal(0, 3 * BLOCK + 5, 4 * BLOCK + 7)
    luma = pyiqa.to_y_channel(image, 255, "yiq").round().double()[..., : 3 * BLOCK, : 4 * BLOCK]
    parts = []
    for scale in (1, 2):
        normalized = pyiqa.normalize_img_with_gauss(luma, padding="replicate")
        parts.append(pyiqa.blockproc(normalized, [BLOCK // scale] * 2, fun=pyiqa.compute_feature)[0])
        luma = pyiqa.imresize(luma / 255, scale=0.5, antialiasing=True) * 255
    down_the_columns = torch.cat(parts, dim=1).reshape(4, 3, 36)
    torch.testing.assert_close(_sharp_features(image), down_the_columns.transpose(0, 1).reshape(12, 36), rtol=0, atol=0)


def test_flat_blocks_are_left_out():
    image = fractal(1, 2 * BLOCK, 2 * BLOCK).clone()
    image[..., :BLOCK, BLOCK:] = 0.5
    assert len(_sharp_features(image)) == 3
    luma = image[:, :1].double()
    assert _sharpness(luma)[1] < 0.2 * _sharpness(luma)[[0, 2, 3]].min()


def test_scores_rise_with_noise_and_with_blur(cache):
    fit_pristine_model(fractal(seed) for seed in range(8)).save(of_fit().place)
    scorer, clean = Scorer(["niqe_fitted"]), fractal(100, 6 * BLOCK, 6 * BLOCK)
    assert not scorer.missing
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    def blurred(size: int) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(clean, size, stride=1, padding=size // 2, count_include_pad=False)

    for distorted in ([clean + 0.02 * noise, clean + 0.1 * noise], [blurred(3), blurred(9)]):
        scores = [scorer.score(image)[0]["niqe_fitted"] for image in (clean, *distorted)]
        assert scores == sorted(scores) and scores[0] < 0.9 * scores[-1], scores


def test_without_a_model_the_column_is_empty_and_says_how_to_make_one(cache):
    scores, notes = Scorer(["niqe_fitted"]).score(fractal(0, 512, 512))
    assert scores == {"niqe_fitted": None} and notes == {"niqe_fitted": "weights missing"}
    assert "mimdit metrics fit-niqe" in Scorer(["niqe_fitted"]).missing["niqe_fitted"]


def test_small_images_are_not_scored(cache):
    fit_pristine_model(fractal(seed) for seed in range(8)).save(of_fit().place)
    assert Scorer(["niqe_fitted"]).score(fractal(0, 511, 600))[1]["niqe_fitted"].startswith("needs 512 pixels")


def test_too_few_blocks_are_an_error():
    with pytest.raises(ValueError, match=r"2 photographs have .* sharp blocks .* needs at least 108; add photographs"):
        fit_pristine_model([fractal(0, BLOCK, BLOCK), fractal(1, BLOCK, BLOCK)])
