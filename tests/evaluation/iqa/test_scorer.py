"""Scores against pyiqa called directly on the same 8-bit values, and reasons where there is no score."""

import math

import cv2
import numpy as np
import pyiqa
import pytest
import torch
from scipy.io import savemat

from mimdit.evaluation.iqa import DEFAULT_METRICS, METRICS, Scorer, metrics_named
from mimdit.evaluation.iqa.weights import of_pyiqa
from mimdit.evaluation.metrics import psnr, ssim

READY = ("psnr", "psnry", "psnr_ycbcr", "ssim", "ssimc", "ssim_ycbcr")
WITHOUT_WEIGHTS = ("piqe", "gmsd", "fsim", "vif", "nlpd", "ms_ssim")


def pair(height: int = 61, width: int = 47, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.interpolate(torch.rand(1, 3, 7, 6, generator=generator), size=(height, width), mode="bicubic").clamp(0, 1)
    return truth + noise * torch.randn(truth.shape, generator=generator), truth


def as_file(image: torch.Tensor) -> torch.Tensor:
    """What pyiqa reads from an 8-bit file of the image."""
    return torch.from_numpy(np.rint(image.clamp(0, 1).numpy() * 255).astype(np.uint8)).float() / 255


@pytest.mark.parametrize("name", READY)
def test_equal_to_pyiqa_on_eight_bit_values(name):
    image, truth = pair()
    options = {"color_space": "ycbcr"} if "ycbcr" in name else {}
    expected = pyiqa.create_metric(METRICS[name].pyiqa, device="cpu", **options)(as_file(image), as_file(truth))
    scores, notes = Scorer([name]).score(image, truth)
    assert scores == {name: expected.item()} and not notes


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_metrics_without_weights_score_the_least_image_and_a_smaller_one_has_a_reason(name):
    least = METRICS[name].least
    assert name in DEFAULT_METRICS and not METRICS[name].files
    image, truth = pair(least, 165)
    scorer = Scorer([name])
    scores, notes = scorer.score(image, truth)
    sides = (as_file(image), as_file(truth))[: 1 + METRICS[name].reference]
    assert not notes and scores[name] == pytest.approx(float(pyiqa.create_metric(name, device="cpu")(*sides)), abs=1e-6)
    small, truth = pair(least - 1, 165) if least > 2 else pair(1, 165)
    scores, notes = scorer.score(small, truth)
    assert scores[name] is None and notes[name] == f"needs {least} pixels a side, the image is 165x{least - 1}"


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_their_direction_is_pyiqas(name):
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    assert METRICS[name].lower_better == DEFAULT_CONFIGS[name].get("lower_better", False)


def test_our_own_metrics_are_those_of_validation_and_differ_from_pyiqas_as_described():
    image, truth = pair(noise=0.004)
    scores, _ = Scorer(["psnr_rgb", "ssim_rgb", "psnr", "ssimc", "psnr_rgb_gt_mean"]).score(image, truth)
    assert scores["psnr_rgb"] == psnr(image, truth).item() and scores["ssim_rgb"] == ssim(image, truth).item()
    # pyiqa adds 1e-8 to the error, of which this image has about 2e-5.
    error = 10 ** (-scores["psnr_rgb"] / 10)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(error + 1e-8), abs=2e-5) and scores["psnr_rgb"] - scores["psnr"] > 1e-3
    assert scores["ssimc"] == pytest.approx(scores["ssim_rgb"], abs=1e-3) and scores["psnr_rgb_gt_mean"] > 40
    assert Scorer(["psnr_rgb"]).score(truth, truth)[0] == {"psnr_rgb": 100.0}


def test_floats_on_demand():
    image, truth = pair()
    expected = pyiqa.create_metric("psnr", device="cpu")(image.clamp(0, 1), truth).item()
    assert Scorer(["psnr"], floats=True).score(image, truth)[0]["psnr"] == expected
    assert Scorer(["psnr"]).score(image, truth)[0]["psnr"] != expected


def test_matlabs_luma_is_its_own_column_and_1_3_db_higher():
    image, truth = pair(128, 128, 0.02)
    scores, _ = Scorer(["psnry", "psnr_ycbcr"]).score(image, truth)
    assert scores["psnr_ycbcr"] - scores["psnry"] == pytest.approx(20 * math.log10(255 / 219), abs=0.1)


def test_without_weights_a_reason_and_the_others_still_run(tmp_path, monkeypatch):
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    image, truth = pair()
    scorer = Scorer(["niqe", "psnr"])
    assert scorer.missing["niqe"].endswith(f"niqe_modelparameters.mat as {tmp_path}/niqe_modelparameters.mat")
    scores, notes = scorer.score(image, truth)
    assert scores["niqe"] is None and notes == {"niqe": "weights missing"} and scores["psnr"] > 0


def test_small_images_have_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    savemat(of_pyiqa("niqe_modelparameters.mat").place, {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    scorer = Scorer(["ssim", "niqe", "psnr"])
    image, truth = pair(10, 100)
    scores, notes = scorer.score(image, truth)
    assert notes == {
        "ssim": "needs 11 pixels a side, the image is 100x10",
        "niqe": "needs 96 pixels a side, the image is 100x10",
    }
    assert scores["psnr"] > 0 and scores["ssim"] is None
    assert not scorer.score(*pair(96, 96))[1]
    assert {name: METRICS[name].least for name in ("ssim", "lpips", "niqe", "liqe")} == {"ssim": 11, "lpips": 31, "niqe": 96, "liqe": 224}


def test_an_image_without_contrast_has_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path))
    savemat(of_pyiqa("niqe_modelparameters.mat").place, {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    scores, notes = Scorer(["niqe"]).score(torch.full((1, 3, 192, 192), 0.5))
    assert scores == {"niqe": None} and "no contrast" in notes["niqe"]


def test_without_a_truth_only_no_reference_metrics_score():
    scores, notes = Scorer(["psnr", "ssim_gt_mean"]).score(pair()[0])
    assert scores == {"psnr": None, "ssim_gt_mean": None} and set(notes.values()) == {"no ground truth"}


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        Scorer(["psnr"]).score(torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21))


def test_gt_mean_is_hvi_cidnets():
    image, truth = pair()
    dark = 0.5 * image
    a, b = ((as_file(each)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for each in (dark, truth))
    means = [cv2.cvtColor(each.astype(np.float32), cv2.COLOR_RGB2GRAY).mean(dtype=np.float64) for each in (a, b)]
    brightened = np.clip(a * (means[1] / means[0]), 0, 255)
    expected = 10 * np.log10(255**2 / np.mean((brightened - b) ** 2))
    scores, _ = Scorer(["psnr", "psnr_gt_mean"]).score(dark, truth)
    assert scores["psnr_gt_mean"] == pytest.approx(expected, abs=1e-3)
    assert scores["psnr_gt_mean"] > scores["psnr"] + 5


def test_realblurs_alignment_forgives_a_shift_and_an_intensity():
    truth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)), size=160, mode="bicubic")
    truth = truth.clamp(0.1, 0.9)
    moved = 0.9 * torch.roll(truth, (2, 3), dims=(2, 3))
    scores, notes = Scorer(["psnr", "ssim", "psnr_aligned", "ssim_aligned"]).score(moved, truth)
    assert not notes
    # What was rolled in at two borders is not of the image.
    assert scores["psnr_aligned"] > scores["psnr"] + 6 and scores["ssim_aligned"] > 0.95
    same, _ = Scorer(["psnr_aligned", "ssim_aligned"]).score(truth, truth)
    assert same["psnr_aligned"] > 60 and same["ssim_aligned"] > 0.999


def test_an_alignment_that_fails_has_a_reason():
    scores, notes = Scorer(["psnr_aligned"]).score(torch.zeros(1, 3, 40, 40), torch.rand(1, 3, 40, 40))
    assert scores["psnr_aligned"] is None and "no alignment was found" in notes["psnr_aligned"]


def test_names_are_checked_and_listed_once():
    assert [metric.name for metric in metrics_named(["psnr", "ssim", "psnr"])] == ["psnr", "ssim"]
    assert len(metrics_named(DEFAULT_METRICS)) == len(DEFAULT_METRICS)
    for name in ("nima", "niqe_gt_mean", "fid_gt_mean", "lpips_aligned"):
        with pytest.raises(ValueError, match="is not known; known are psnr"):
            metrics_named([name])
