"""The results table against averages by hand."""

import pytest

from mimdit.evaluation.results import summarize, unique_rows


def row(group: str, key: str, psnr_input: float, psnr_output: float) -> dict:
    return {"group": group, "key": key, "psnr_input": psnr_input, "psnr_output": psnr_output}


ROWS = [row("05Noise", "b", 20, 25), row("08Haze", "a", 10, 20), row("05Noise", "a", 24, 27)]


def test_averages_over_images_and_over_groups_differ_where_groups_do():
    summary = summarize(ROWS)
    assert summary["groups"]["05Noise"] == {"psnr_input": 22, "psnr_output": 26, "images": 2}
    assert summary["average"] == {"psnr_input": 18, "psnr_output": 24, "images": 3}
    assert summary["average_over_groups"] == {"psnr_input": 16, "psnr_output": 23, "images": 3}
    assert summary["left_out"] == []


def test_images_that_needed_nothing_are_listed_but_not_averaged():
    summary = summarize([*ROWS, row("00Clean", "a", 100, 40)])
    assert summary["groups"]["00Clean"]["psnr_output"] == 40
    assert summary["left_out"] == ["00Clean"]
    assert summary["average"] == summarize(ROWS)["average"]
    assert summary["average_over_groups"] == summarize(ROWS)["average_over_groups"]


def test_clean_images_alone_are_averaged_all_the_same():
    assert summarize([row("00Clean", "a", 100, 40)])["average"]["psnr_output"] == 40


def test_a_sample_counts_once_and_order_does_not_matter():
    assert unique_rows([*ROWS, ROWS[0], ROWS[1]]) == unique_rows(ROWS[::-1])
    assert len(unique_rows([row("05Noise", "a", 1, 2), row("08Haze", "a", 1, 2)])) == 2


def test_broken_scores_and_no_scores_are_errors_that_say_so():
    with pytest.raises(ValueError, match="psnr_output of image 08Haze/a is nan"):
        summarize([row("08Haze", "a", 10, float("nan"))])
    with pytest.raises(ValueError, match="no image"):
        summarize([])
