"""Compression by other codecs: worse with severity, in place, and in groups of their own."""

import numpy as np
import pytest

from datamodules.degradations import FORMULA_SETS, atoms_of_group, degrade
from datamodules.degradations.codecs import CODECS, FORMULAS, Codec, compress_by, require_codecs
from datamodules.degradations.compose import drawn_formula
from datamodules.degradations.groups import CODEC_WORDS
from datamodules.synthetic.scenes import make_scene

SCENE = make_scene(128, seed=3)[:97, :75].astype(np.float32) / 255  # odd sides, which video codecs do not take


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


@pytest.mark.parametrize("codec", CODECS)
def test_quality_falls_with_severity_and_nothing_moves(codec):
    images = [compress_by(SCENE, codec, CODECS[codec].quality(severity)) for severity in (0.0, 0.5, 1.0)]
    scores = [psnr(image, SCENE) for image in images]
    assert scores[0] > 32 and scores[0] > scores[1] + 2 and scores[1] > scores[2] + 2 and scores[2] > 15
    for image in images:
        assert image.shape == SCENE.shape and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
        shifted = [psnr(np.roll(image, shift, (0, 1)), SCENE) for shift in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        assert psnr(image, SCENE) > max(shifted)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("side", [1, 16, 33])
def test_small_images_keep_their_size(codec, side):
    assert compress_by(SCENE[:side, :side], codec, CODECS[codec].quality(0.5)).shape == (side, side, 3)


def ramp() -> np.ndarray:
    down, right = np.mgrid[:96, :128] / [[[96]], [[128]]]
    return np.stack([0.2 + 0.6 * right, 0.8 - 0.5 * down, 0.3 + 0.2 * (down + right)], axis=-1).astype(np.float32)


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("image", [ramp(), SCENE], ids=["ramp", "scene"])
def test_video_codecs_keep_the_mean_of_each_channel(codec, image):
    decoded = compress_by(image, codec, CODECS[codec].quality(0.0))
    assert np.abs((decoded - image).mean(axis=(0, 1))).max() * 255 < 0.3


def test_qualities_are_linear_or_geometric():
    assert [CODECS["h264"].quality(severity) for severity in (0, 0.5, 1)] == [20, 33, 46]
    assert [CODECS["jpeg2000"].quality(severity) for severity in (0, 0.5, 1)] == [5, 20, 80]


def test_an_unknown_and_a_missing_codec_are_named(monkeypatch):
    with pytest.raises(ValueError, match="codec 'avi' is unknown; choose among jpeg, webp, avif"):
        require_codecs(["avi"])
    missing = Codec(1, 0, "", lambda pixels, quality: pixels, lambda: False, "PyAV; pip install 'mimdit[video]'")
    monkeypatch.setitem(CODECS, "h264", missing)
    for call in (lambda: require_codecs(["avif", "h264"]), lambda: degrade(SCENE, "06JPEG", severity=0.5, seed=0, formulas="codecs")):
        with pytest.raises(ValueError, match=r"the codec h264 needs PyAV; pip install 'mimdit\[video\]'"):
            call()


def test_groups_name_the_codec_and_are_compression():
    assert atoms_of_group("AVIF_Q40") == atoms_of_group("H265_Q46") == atoms_of_group("JPEG2000_Q5") == ("jpeg",)
    assert {*CODEC_WORDS, "jpeg"} == set(CODECS)
    with pytest.raises(ValueError, match="unknown part 'Q4x'"):
        atoms_of_group("AVIF_Q4x")


def test_the_set_draws_every_codec_and_leaves_the_other_sets_and_atoms_as_they_are():
    drawn = {drawn_formula("jpeg", seed, "codecs") for seed in range(300)}
    assert set(FORMULAS) < drawn and "original" in drawn
    assert not set(FORMULAS) & {drawn_formula("jpeg", seed, "varied") for seed in range(300)}
    assert all(drawn_formula("noise", seed, "codecs") == drawn_formula("noise", seed, "varied") for seed in range(20))
    seed = next(seed for seed in range(300) if drawn_formula("jpeg", seed, "codecs") == "h265")
    share = 0.8
    expected = compress_by(SCENE, "h265", CODECS["h265"].quality(share))
    assert np.array_equal(degrade(SCENE, "06JPEG", severity=share, seed=seed, formulas="codecs"), expected)
    assert FORMULA_SETS == ("original", "varied", "codecs", "cameras")
