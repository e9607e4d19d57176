"""The published figures that come along, and files of one's own."""

import pytest

from datamodules.foundir import TEST_PAIRS
from mimdit.evaluation.report import load_published
from mimdit.evaluation.report.runs import GROUP_MEAN


def test_foundirs_twenty_groups_average_to_its_published_psnr():
    foundir = load_published()["foundir"]
    assert set(foundir.titles) == set(TEST_PAIRS) and list(foundir.titles.values())[:3] == ["Blur", "Noise", "JPEG"]
    (best,) = [row for row in foundir.rows if row.method == "FoundIR (generalist and specialists)"]
    psnr = best.means["psnr"]
    assert psnr[GROUP_MEAN].value == 27.81 and len(psnr) == 21
    assert sum(psnr[group].value for group in foundir.titles) / 20 == pytest.approx(27.81, abs=0.01)
    assert psnr["08Haze"].value == 22.19 and psnr["12NightRain"].value == 33.96 and best.means["ssim"]["04Blur_Noise_JPEG"].value == 0.7452


def test_every_row_names_its_source():
    assert all(row.source for published in load_published().values() for row in published.rows)


def test_rows_of_ones_own_are_added(tmp_path):
    (tmp_path / "mine.yaml").write_text("benchmark: FoundIR\nrows:\n- {method: X, source: its paper, psnr: {group_mean: 20.0}}\n")
    foundir = load_published([tmp_path / "mine.yaml"])["foundir"]
    assert foundir.rows[-1].method == "X" and len(foundir.titles) == 20


@pytest.mark.parametrize(
    ("row", "told"),
    [("{method: X, psnr: {group_mean: 1}}", "source"), ("{method: X, source: a, psnr: {mean: 1}}", "known are groups, group_mean")],
)
def test_what_is_wrong_is_named(tmp_path, row, told):
    (tmp_path / "mine.yaml").write_text(f"benchmark: FoundIR\nrows: [{row}]\n")
    with pytest.raises(ValueError, match=told):
        load_published([tmp_path / "mine.yaml"])
