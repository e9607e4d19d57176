"""Photographs for validation and test, and sharp crops of a folder's photographs."""

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.io

from datamodules.synthetic.photographs import (
    LEAST_DETAIL,
    TEST,
    VALIDATION,
    detail,
    list_photographs,
    load_photograph,
    photograph_crop,
    photographs_digest,
    random_crop,
    read_photograph,
)


def test_lists_are_disjoint_and_without_undefined_exposure():
    assert not set(TEST) & set(VALIDATION)
    assert not {"hubble_deep_field", "retina", "ihc"} & {*TEST, *VALIDATION}


@pytest.mark.parametrize("name", [*TEST, *VALIDATION])
def test_is_rgb_of_256_pixels_or_more(name):
    image = load_photograph(name)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 256


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
def test_equals_what_scikit_image_reads(name):
    reference = getattr(skimage.data, name)()
    reference = np.repeat(reference[..., None], 3, axis=2) if reference.ndim == 2 else reference
    np.testing.assert_array_equal(load_photograph(name), reference)


def test_crop_of_an_even_reduction_is_a_mean_of_blocks():
    blocks = load_photograph("astronaut").reshape(256, 2, 256, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(photograph_crop("astronaut", 256) - blocks).max() <= 0.5


def test_crop_is_the_middle():
    wide = photograph_crop("chelsea", 300)
    np.testing.assert_array_equal(wide, load_photograph("chelsea")[:, 75:375])


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'hubble'.*astronaut"):
        load_photograph("hubble")


def test_crop_beyond_the_photograph_is_refused():
    with pytest.raises(ValueError, match="chelsea is 451x300"):
        photograph_crop("chelsea", 400)


COFFEE = load_photograph("coffee")


def save(path, image=COFFEE[:120, :160]):
    path.write_bytes(cv2.imencode(path.suffix, image[..., ::-1])[1].tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg", "c.png"):
        save(tmp_path / name)
    (tmp_path / "README.md").write_text("about them")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "train.txt").write_text("# for training\nc.png\n\na.jpg\n")
    return tmp_path


def test_lists_images_by_name(folder):
    assert list_photographs(folder, size=32) == ["a.jpg", "b.png", "c.png"]


def test_a_split_restricts_the_list(folder):
    assert list_photographs(folder, size=32, split=folder / "train.txt") == ["a.jpg", "c.png"]
    (folder / "train.txt").write_text("d.png\n")
    with pytest.raises(ValueError, match="'d.png'"):
        list_photographs(folder, size=32, split=folder / "train.txt")


def test_a_photograph_too_small_is_named(folder):
    with pytest.raises(ValueError, match=r"a\.jpg.*120 pixels.*at least 134"):
        list_photographs(folder, size=120)
    with pytest.raises(ValueError, match=r"Remove it, or exclude it with --split, or give a smaller --size\.$"):
        list_photographs(folder, size=120, options=("split", "size"))


def test_an_unreadable_file_is_named(folder):
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        list_photographs(folder, size=32)
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        read_photograph(folder / "a.jpg")


def test_digest_depends_on_names_and_bytes(folder):
    before = photographs_digest(folder, ["a.jpg", "b.png"])
    assert before == photographs_digest(folder, ["a.jpg", "b.png"]) != photographs_digest(folder, ["a.jpg", "c.png"])
    save(folder / "b.png", COFFEE[1:121, :160])
    assert photographs_digest(folder, ["a.jpg", "b.png"]) != before


def test_gray_and_deep_files_are_read_as_rgb(tmp_path):
    gray = COFFEE[..., 0]
    (tmp_path / "gray.png").write_bytes(cv2.imencode(".png", gray)[1].tobytes())
    (tmp_path / "deep.png").write_bytes(cv2.imencode(".png", COFFEE[..., ::-1].astype(np.uint16) * 257)[1].tobytes())
    np.testing.assert_array_equal(read_photograph(tmp_path / "gray.png"), np.repeat(gray[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_photograph(tmp_path / "deep.png"), COFFEE)


def test_a_crop_of_a_ramp_is_the_ramp_at_a_scale_within_bounds():
    # On a ramp every reduction by area averaging is a ramp again, and its slope tells the scale.
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    scales = []
    for seed in range(60):
        row = random_crop(ramp, 32, seed=seed, retoned=False)[0, :, 0].astype(float)
        slope = abs(row[-1] - row[0]) / 31
        np.testing.assert_allclose(row, np.linspace(row[0], row[-1], 32), atol=1.0)
        scales.append(1 / slope)
    assert 0.24 <= min(scales) < 0.32 and 0.75 < max(scales) <= 0.95
    assert abs(np.log(scales).mean() - np.log(0.25 * 0.9) / 2) < 4 * np.log(0.9 / 0.25) / 12**0.5 / 60**0.5


def test_crops_are_equal_for_equal_seeds_and_differ_otherwise():
    first = random_crop(COFFEE, 64, seed=1, retoned=True)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, random_crop(COFFEE, 64, seed=1, retoned=True))
    assert (first != random_crop(COFFEE, 64, seed=2, retoned=True)).any()


def test_retoning_keeps_the_geometry():
    for seed in range(8):
        plain, toned = (random_crop(COFFEE, 64, seed=seed, retoned=flag)[..., 1].astype(float).ravel() for flag in (False, True))
        assert np.corrcoef(plain.argsort().argsort(), toned.argsort().argsort())[0, 1] > 0.8


def test_flat_crops_are_drawn_anew_but_not_for_ever():
    # A quarter of the picture has detail: with eight tries far more than a quarter of the crops have.
    half_flat = np.full((400, 400, 3), 128, np.uint8)
    half_flat[:200, :200] = np.random.default_rng(0).integers(0, 256, (200, 200, 3))
    shares = [detail(random_crop(half_flat, 32, seed=seed, retoned=False) / 255.0) >= LEAST_DETAIL for seed in range(60)]
    assert np.mean(shares) > 0.7
    flat = random_crop(np.full((100, 100, 3), 128, np.uint8), 32, seed=0, retoned=False)
    np.testing.assert_array_equal(flat, 128)


def test_a_smaller_limit_takes_the_first_crop_that_a_larger_one_refuses():
    half_flat = np.full((400, 400, 3), 128, np.uint8)
    half_flat[:200, :200] = np.random.default_rng(0).integers(0, 256, (200, 200, 3))
    details = {
        least: [detail(random_crop(half_flat, 32, seed=seed, retoned=False, least_detail=least) / 255.0) for seed in range(60)]
        for least in (0.0, LEAST_DETAIL)
    }
    assert sum(value < LEAST_DETAIL for value in details[0.0]) > 2 * sum(value < LEAST_DETAIL for value in details[LEAST_DETAIL])


def test_enlarging_is_refused():
    with pytest.raises(ValueError, match="100x80 is too small for sharp crops of 73; set at most 72"):
        random_crop(np.zeros((80, 100, 3), np.uint8), 73, seed=0, retoned=False)
