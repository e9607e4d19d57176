"""What all formulas of the atoms have in common: strength, range, place of the content, and that all are drawn."""

from functools import cache

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from datamodules.degradations import degrade
from datamodules.degradations.compose import IN_ORDER, drawn_formula
from datamodules.degradations.formula import Formula, draw_formula
from datamodules.synthetic.photographs import photograph_crop
from mimdit.core.batch import ATOMS

ALL = [(atom, name) for atom, formulas in IN_ORDER.items() for name in formulas]
ALIGNED = [pair for pair in ALL if pair[0] in ("blur", "jpeg", "noise")]


@cache
def load():
    return [photograph_crop(name, 160).astype(np.float32) / 255.0 for name in ("motorcycle_left", "camera")]


@pytest.fixture
def photographs():
    return load()


def psnr(image, reference):
    return -10.0 * np.log10(np.mean((image - reference) ** 2) + 1e-10)


@cache
def mean_psnr(atom, name, severity, seeds=8):
    apply = IN_ORDER[atom][name].apply
    return np.mean([psnr(apply(image, severity, np.random.default_rng(seed)), image) for image in load() for seed in range(seeds)])


@pytest.mark.parametrize("atom", ATOMS)
def test_an_atom_has_several_formulas_and_the_original_first(atom):
    assert next(iter(IN_ORDER[atom])) == "original" and len(IN_ORDER[atom]) >= 3
    assert all(formula.weight > 0.0 for formula in IN_ORDER[atom].values())


@pytest.mark.parametrize(("atom", "name"), ALL)
@pytest.mark.parametrize("shape", [(97, 130), (24, 33)])
def test_result_is_float32_in_range_and_leaves_the_input_alone(atom, name, shape, photographs):
    image = np.ascontiguousarray(photographs[0][: shape[0], : shape[1]])
    before = image.copy()
    for seed in range(6):
        for severity in (0.0, 0.3, 1.0):
            result = IN_ORDER[atom][name].apply(image, severity, np.random.default_rng(seed))
            assert result.shape == image.shape and result.dtype == np.float32
            assert result.min() >= -1e-5 and result.max() <= 1.0 + 1e-5
            assert not np.shares_memory(result, image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("atom", "name"), ALL)
def test_severity_zero_is_nearly_the_image(atom, name, photographs):
    apply = IN_ORDER[atom][name].apply
    errors = [np.abs(apply(image, 0.0, np.random.default_rng(seed)) - image).mean() for image in photographs for seed in range(8)]
    # Noise starts at 1/255, files at a quality of about 90.
    assert np.mean(errors) <= {"noise": 2.0 / 255.0, "jpeg": 5.0 / 255.0}.get(atom, 1e-5)


@pytest.mark.parametrize(("atom", "name"), ALL)
def test_mean_effect_grows_with_the_severity(atom, name):
    means = [mean_psnr(atom, name, severity) for severity in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert all(worse < better - 0.4 for better, worse in zip(means, means[1:], strict=False)), means


@pytest.mark.parametrize(("atom", "name"), [pair for pair in ALL if pair[1] != "original"])
def test_is_about_as_strong_as_the_original(atom, name):
    assert abs(mean_psnr(atom, name, 0.5, seeds=16) - mean_psnr(atom, "original", 0.5, seeds=16)) < 4.0
    # Mild at 0.1, and not absurd at 1.
    assert mean_psnr(atom, name, 0.1) > 23.0
    assert abs(mean_psnr(atom, name, 1.0) - mean_psnr(atom, "original", 1.0)) < 5.0


@pytest.mark.parametrize(("atom", "name"), ALIGNED)
def test_content_stays_in_its_place(atom, name, photographs):
    truth, shifts = photographs[0].mean(axis=2), []
    for seed in range(12):
        result = IN_ORDER[atom][name].apply(photographs[0], 0.4, np.random.default_rng(seed)).mean(axis=2)
        shifts.append(phase_cross_correlation(truth, result, upsample_factor=8, normalization=None)[0])
    # A path of shaking is centered, yet its brightest part need not lie in the middle.
    assert np.abs(shifts).max() <= 0.5 and np.abs(np.mean(shifts, axis=0)).max() <= 0.15


@pytest.mark.parametrize("name", IN_ORDER["noise"])
def test_noise_keeps_the_mean_of_mid_gray(name):
    gray = np.full((96, 96, 3), 0.5, np.float32)
    means = [IN_ORDER["noise"][name].apply(gray, 0.3, np.random.default_rng(seed)).mean(axis=(0, 1)) for seed in range(24)]
    # Noise that is even in linear light loses some thousandths under the curve of sRGB.
    np.testing.assert_allclose(np.mean(means, axis=0), 0.5, atol=0.012)


@pytest.mark.parametrize("atom", ATOMS)
def test_every_formula_is_drawn_as_often_as_its_weight_says(atom):
    names = [drawn_formula(atom, seed) for seed in range(1500)]
    total = sum(formula.weight for formula in IN_ORDER[atom].values())
    for name, formula in IN_ORDER[atom].items():
        # Four standard deviations of a share of 1500 draws are at most 0.052.
        assert names.count(name) / len(names) == pytest.approx(formula.weight / total, abs=0.052)


def test_a_formula_of_no_weight_is_never_drawn():
    formulas = {"none": Formula(np.add, 0.0), "all": Formula(np.add, 1.0), "last": Formula(np.add, 0.0)}
    assert {draw_formula(formulas, np.random.default_rng(seed)) for seed in range(50)} == {"all"}


@pytest.mark.parametrize("group", ["05Noise", "08Haze", "11Raindrop"])
def test_the_original_formula_is_the_same_in_both_sets(group, photographs):
    atom = group[2:].lower()
    seeds = [seed for seed in range(40) if drawn_formula(atom, seed) == "original"][:2]
    others = [seed for seed in range(40) if drawn_formula(atom, seed) != "original"][:2]
    for seed in seeds + others:
        first, second = (degrade(photographs[1], group, severity=0.6, seed=seed, formulas=name) for name in ("original", "varied"))
        assert np.array_equal(first, second) == (seed in seeds)


def test_atoms_of_a_group_draw_apart():
    pairs = {(drawn_formula("blur", seed), drawn_formula("noise", seed)) for seed in range(800)}
    assert len(pairs) == len(IN_ORDER["blur"]) * len(IN_ORDER["noise"])


def test_equal_arguments_give_equal_bytes(photographs):
    for seed in range(20):
        first, second = (degrade(photographs[0], "18Lowlight_Blur_Noise", severity=0.5, seed=seed, formulas="varied") for _ in range(2))
        assert first.tobytes() == second.tobytes()


def test_unknown_set_of_formulas_is_named(photographs):
    with pytest.raises(ValueError, match="'both'.*original, varied"):
        degrade(photographs[0], "01Blur", severity=0.5, seed=0, formulas="both")
