"""Means as one would take them by hand, and of images that the real scorer scored."""

import json

import pytest
import torch

from callbacks import Quality, Scores
from mimdit.evaluation.report import Mean, read_run
from mimdit.evaluation.report.runs import GROUP_MEAN, IMAGE_MEAN, named_folder
from mimdit.evaluation.summary import summarize
from tests.callbacks.dummy import DummyRestorer, samples, trainer
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
    run = read_run(str(write_run(tmp_path / "mine", [row("00Clean", 1, 40.0, identical=True), row("08Haze", 1, 20.0)])))
    assert run.means["foundir", "output", "psnr"][GROUP_MEAN].value == 20.0
    assert "the inputs of 00Clean equal their truths and are in no mean" in run.remarks[0]


class Darker(DummyRestorer):
    """Subtracts the same from every image: 25.0 dB where it needed nothing, another PSNR where it did."""

    def test_step(self, batch: dict, batch_idx: int) -> dict:
        return {"restored": batch["lq"] - 10 ** (-25 / 20)}


def scored(folder, callback) -> dict:
    """Means by metric and column of a test of the dummy's images, of whose three groups one needs nothing."""
    bright = [sample | {"lq": 0.5 + sample["lq"] / 2, "gt": 0.5 + sample["gt"] / 2} for sample in samples()]
    trainer(folder, callback, tensorboard=False).test(Darker(), torch.utils.data.DataLoader(bright), verbose=False)
    return read_run(str(folder)).means


@pytest.mark.parametrize("metric, callback", [("psnr", lambda: Scores(["psnr", "ssim"])), ("psnr_rgb", Quality)])
def test_the_real_scorers_rows_of_images_that_need_nothing_are_in_no_mean(tmp_path, metric, callback):
    means = scored(tmp_path / "run", callback())
    output, given = means["test", "output", metric], means["test", "input", metric]
    assert output["00Clean"].value == pytest.approx(25.0, abs=0.05) and given["00Clean"].value == pytest.approx(
        {"psnr": 80, "psnr_rgb": 100}[metric]
    )
    for each in (output, given):
        assert (
            each[GROUP_MEAN].value == pytest.approx((each["05Noise"].value + each["09Lowlight_Haze"].value) / 2)
            and each[GROUP_MEAN].images == 8
        )
        assert abs(each[GROUP_MEAN].value - sum(each[group].value for group in ("00Clean", "05Noise", "09Lowlight_Haze")) / 3) > 0.2


def test_rows_before_schema_1_need_nothing_at_pyiqas_80_db(tmp_path):
    old = [{name: value for name, value in each.items() if name not in ("test_set", "identical_input")} | {"benchmark": "foundir"}
           for each in (row("00Clean", 1, 40.0) | {"input": {"psnr": 80.0, "lpips": 0.0}}, row("08Haze", 1, 25.0))]  # fmt: skip
    assert read_run(str(write_run(tmp_path / "mine", old))).means["foundir", "output", "psnr"][GROUP_MEAN].value == 25.0


def test_what_is_left_out_is_read_from_the_means_where_they_are(tmp_path):
    folder = write_run(tmp_path / "mine", [row("00Clean", 1, 40.0), row("08Haze", 1, 20.0)])
    summaries = summarize(json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines())
    stored = summarize([row("00Clean", 1, 40.0, identical=True), row("08Haze", 1, 20.0)])
    for each, mean in ((summaries, 30.0), (stored, 20.0)):
        (folder / "results.json").write_text(json.dumps({"schema": 1, "test_sets": each}))
        assert read_run(str(folder)).means["foundir", "output", "psnr"][GROUP_MEAN].value == mean


def test_means_of_another_test_than_the_rows_are_refused(tmp_path):
    folder = write_run(tmp_path / "mine", [row("08Haze", 1, 20.0), row("08Haze", 2, 20.0)])
    (folder / "results.json").write_text(json.dumps({"schema": 1, "test_sets": summarize([row("08Haze", 1, 20.0)])}))
    with pytest.raises(ValueError, match="holds 2 images of foundir, but the means in .* are those of 1"):
        read_run(str(folder))


def test_a_later_schema_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 2}')
    with pytest.raises(ValueError, match="has schema 2, this version reads up to 1; update mimdit"):
        read_run(str(tmp_path))


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
    assert (
        run.means["test", "output", "psnr_rgb"]["08Haze"] == Mean(25.0, 3)
        and run.means["test", "estimate", "psnr_rgb"][GROUP_MEAN].value == 24
    )
    assert "has no results.jsonl" in run.remarks[0]


@pytest.mark.parametrize(
    "line", ["{}", "no json", json.dumps(row("08Haze", 2, float("nan"))), json.dumps(row("a", 1, 1.0) | {"output": 3})]
)
def test_a_damaged_line_is_named(tmp_path, line):
    folder = write_run(tmp_path / "mine", [row("08Haze", 1, 20.0)])
    with open(folder / "results.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="line 2 is not an image's result"):
        read_run(str(folder))


def test_a_run_without_results_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="holds neither results.jsonl nor results.json; test the run first"):
        read_run(str(tmp_path))


def test_a_folder_may_have_an_equals_sign(tmp_path):
    folder = write_run(tmp_path / "lr=1e-4", [row("08Haze", 1, 20.0)])
    assert read_run(str(folder)).name == "lr=1e-4" and read_run(f"a={folder}").name == "a"


def test_a_run_may_be_named_and_its_folder_may_have_an_equals_sign(tmp_path):
    (tmp_path / "lr=1").mkdir()
    assert named_folder(f"{tmp_path}/lr=1") == ("lr=1", tmp_path / "lr=1")
    assert named_folder(f"a={tmp_path}/lr=1") == ("a", tmp_path / "lr=1")
    assert named_folder(f"{tmp_path}/missing") == ("missing", tmp_path / "missing")
