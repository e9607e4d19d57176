"""Paired differences against closed forms."""

import itertools

import numpy as np
import pytest

from mimdit.evaluation.report import read_run
from mimdit.evaluation.report.comparison import bootstrap_interval, compare_runs, comparison_csv, comparison_table
from tests.evaluation.report.made_results import row, write_run


def test_equal_differences_have_an_interval_of_no_width():
    found = bootstrap_interval([np.full(7, 0.25)])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25) and found.excludes_zero


def test_the_interval_of_three_differences_is_that_of_all_27_resamples():
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(resample) for resample in itertools.product(values, repeat=3)]
    for level in (0.5, 0.8, 0.95):
        found = bootstrap_interval([values], level=level, resamples=40_000)
        exact = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        assert (found.low, found.high) == pytest.approx(tuple(exact), abs=0.34)  # one step of the 27 at most


def test_many_differences_come_near_the_normal_interval():
    values = np.random.default_rng(1).normal(0.1, 1.0, 2_000)
    found, half = bootstrap_interval([values]), 1.96 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_groups_weigh_alike_and_are_resampled_inside():
    # Differences are constant in each group: pooled resampling would mix them, resampling inside does not.
    found = bootstrap_interval([np.full(9, 1.0), np.full(1, 4.0)])
    assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5)
    pooled = bootstrap_interval([np.array([1.0] * 9 + [4.0])])
    assert pooled.mean == pytest.approx(1.3) and pooled.low < 1.3 < pooled.high


def test_equal_seeds_give_equal_intervals():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap_interval([values], seed=3) == bootstrap_interval([values], seed=3) != bootstrap_interval([values], seed=4)


def test_two_runs_image_by_image(tmp_path):
    clean = row("00Clean", 9, 90.0, identical=True)
    first = [row("08Haze", 1, 20.0, 0.3), row("08Haze", 2, 30.0, 0.3), row("05Noise", 1, 25.0, 0.2), row("05Noise", 7, None), clean]
    second = [row("08Haze", 2, 31.0, 0.4), row("05Noise", 1, 24.0, 0.1), row("08Haze", 1, 22.0, 0.2), row("05Noise", 7, 1.0), clean]
    runs = [read_run(str(write_run(tmp_path / name, rows))) for name, rows in (("a", first), ("b", second))]
    psnr, lpips = compare_runs(*runs)
    assert (psnr.test_set, psnr.metric, psnr.images, psnr.better) == ("foundir", "psnr", 3, 2)
    assert psnr.of_images.mean == pytest.approx(2 / 3) and psnr.of_groups.mean == pytest.approx((1.5 - 1) / 2)
    assert psnr.of_images.low == -1 and psnr.of_images.high == 2  # three images all alike happen in 1 of 27 resamples
    assert lpips.better == 2 and lpips.images == 4 and lpips.equal == 1
    text = comparison_table([psnr, lpips])
    assert "| b - a | foundir | psnr | 3 | +0.6667 [-1.0000, +2.0000] |" in text and "| 2 (67 %) |" in text
    assert comparison_csv([psnr]).splitlines()[1].startswith("foundir,psnr,a,b,3,0.66666")
    assert "**" in comparison_table(compare_runs(runs[0], read_run(f"c={write_run(tmp_path / 'c', [row('08Haze', 1, 21.0)])}")))


def test_what_cannot_be_compared_names_the_remedy(tmp_path):
    one = read_run(str(write_run(tmp_path / "a", [row("08Haze", 1, 20.0)])))
    other = read_run(str(write_run(tmp_path / "b", [row("08Haze", 2, 20.0)])))
    with pytest.raises(ValueError, match="a and b have no scored image in common"):
        compare_runs(one, other)
