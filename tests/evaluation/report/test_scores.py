"""Means as one would take them by hand."""

import json

import pytest

from mimdit.evaluation.report import Mean, read_run
from mimdit.evaluation.report.scores import GROUP_MEAN, IMAGE_MEAN
from tests.evaluation.report.made_results import GATES, row, write_run


def test_means_of_groups_and_of_images(tmp_path):
    rows = [row("08Haze", 1, 20.0), row("08Haze", 2, 30.0), row("05Noise", 1, 40.0), row("08Haze", 1, 20.0)]
    run = read_run(str(write_run(tmp_path / "mine", rows)))
    means = run.means["foundir", "output", "psnr"]
    assert run.name == "mine" and means["08Haze"] == Mean(25.0, 2) and means["05Noise"] == Mean(40.0, 1)
    assert means[GROUP_MEAN].value == pytest.approx(32.5) and means[IMAGE_MEAN].value == pytest.approx(30.0)
    assert run.means["foundir", "input", "lpips"][GROUP_MEAN].value == pytest.approx(0.5)


def test_what_has_no_value_is_counted_and_told(tmp_path):
    rows = [row("08Haze", 1, 20.0), row("08Haze", 2, None, notes={"psnr": "no truth"}), row("05Noise", 1, None, notes={"psnr": "no truth"})]
    run = read_run(f"named={write_run(tmp_path / 'mine', rows)}")
    means = run.means["foundir", "output", "psnr"]
    assert means["08Haze"] == Mean(20.0, 1, 1) and means[GROUP_MEAN] == Mean(20.0, 1, 2)
    assert run.remarks == ["named, foundir: 2 images have no psnr (no truth); means are over the others."]


def test_images_that_needed_nothing_are_in_no_average(tmp_path):
    clean = row("00Clean", 1, 40.0) | {"input": {"psnr": 100.0, "lpips": 0.0}}
    run = read_run(str(write_run(tmp_path / "mine", [clean, row("08Haze", 1, 20.0)])))
    assert run.means["foundir", "output", "psnr"][GROUP_MEAN].value == 20.0
    assert "00Clean needed nothing" in run.remarks[0]


def test_gates_are_averaged_by_group(tmp_path):
    other = {"inter": [[0.5, 0.5], [0.5, 0.5]], "intra": GATES["intra"]}
    run = read_run(str(write_run(tmp_path / "mine", [row("08Haze", 1, 20.0, routing=GATES), row("08Haze", 2, 20.0, routing=other)])))
    inter, intra = run.routing["foundir"]["08Haze"]
    assert inter[0] == pytest.approx([0.6, 0.4]) and intra == GATES["intra"]


def test_without_rows_the_aggregates_are_taken_and_said_to_be(tmp_path):
    means = {"psnr_output": 25.0, "psnr_input": 20.0, "ssim_output": 0.8, "ssim_input": 0.7, "psnr_estimate": 24.0, "images": 3}
    content = {"groups": {"08Haze": means}, "average": means, "average_over_groups": means, "left_out": []}
    (tmp_path / "results.json").write_text(json.dumps(content))
    run = read_run(f"old={tmp_path}")
    assert run.means["test", "output", "psnr"]["08Haze"] == Mean(25.0, 3) and ("test", "estimate", "psnr") not in run.means
    assert "has no results.jsonl" in run.remarks[0]


@pytest.mark.parametrize(
    "line", ["{}", "no json", json.dumps(row("08Haze", 2, float("nan"))), json.dumps(row("a", 1, 1.0) | {"output": 3})]
)
def test_a_damaged_line_is_named(tmp_path, line):
    folder = write_run(tmp_path / "mine", [row("08Haze", 1, 20.0)])
    with open(folder / "results.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2 is no image's result"):
        read_run(str(folder))


def test_a_run_without_results_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="holds neither results.jsonl nor results.json; test the run first"):
        read_run(str(tmp_path))
