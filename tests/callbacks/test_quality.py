"""Scores by group: what is logged and what is written, against the metrics applied image by image."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import Quality, Scores
from mimdit.evaluation.metrics import psnr, ssim
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer


def score(metric, group: str, weight: float) -> float:
    """Mean over a group's samples of the metric after moving ``weight`` of the way to the truth."""
    members = [s for s in samples() if s["group"] == group]
    return sum(metric((s["lq"] + weight * (s["gt"] - s["lq"]))[None], s["gt"][None]).item() for s in members) / len(members)


def test_results_hold_every_group_and_both_averages(tmp_path):
    trainer(tmp_path, Quality(settings={"note": "x"})).test(DummyRestorer(0.5), loader(batch_size=5), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    summary = results["test_sets"]["test"]
    assert results["schema"] == 1 and list(summary["groups"]) == ["00Clean", "05Noise", "09Lowlight_Haze"]
    for group in ("05Noise", "09Lowlight_Haze"):
        means = summary["groups"][group]
        assert means["images"] == 4
        for name, weight in (("input", 0), ("output", 0.5), ("residuals_zeroed", 0), ("gates_uniform", 1)):
            assert means[name]["psnr_rgb"] == pytest.approx(score(psnr, group, weight), abs=1e-4)
            assert means[name]["ssim_rgb"] == pytest.approx(score(ssim, group, weight), abs=1e-5)
        assert "estimate" not in means
    average = (score(psnr, "05Noise", 0.5) + score(psnr, "09Lowlight_Haze", 0.5)) / 2
    assert summary["mean_of_images"]["output"]["psnr_rgb"] == pytest.approx(average, abs=1e-4)
    assert summary["mean_of_groups"]["output"]["psnr_rgb"] == pytest.approx(average, abs=1e-4)
    assert summary["left_out"] == ["00Clean"] and summary["groups"]["00Clean"]["input"]["psnr_rgb"] == 100
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["identical_input"] for row in rows] == [row["group"] == "00Clean" for row in rows]
    assert rows[-1]["degradations"] == ["haze", "lowlight"] and rows[0]["test_set"] == "test"
    assert results["settings"]["seed"] == 3 and results["settings"]["note"] == "x"


def test_nothing_but_the_results_is_left_behind(tmp_path):
    path = tmp_path / "deep" / "scores.json"
    trainer(tmp_path, Quality(str(path)), tensorboard=False).test(DummyRestorer(), loader(), verbose=False)
    assert sorted(file.name for file in path.parent.iterdir()) == ["scores.json", "scores.jsonl"]


def test_beside_scores_the_test_is_theirs(tmp_path):
    run = trainer(tmp_path, Quality(), Scores(["psnr"]), tensorboard=False)
    run.test(DummyRestorer(), loader(), verbose=False)
    summary = json.loads((tmp_path / "results.json").read_text())["test_sets"]["test"]
    assert list(summary["mean_of_images"]["output"]) == ["psnr"] and "test/psnr_output" not in run.callback_metrics


class Broken(DummyRestorer):
    """Returns values that are not finite."""

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        return {"restored": batch["lq"] * float("nan")}


def test_validation_of_values_that_are_not_finite_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        trainer(tmp_path, Quality(), tensorboard=False).validate(Broken(), loader(), verbose=False)


def test_validation_scores_are_there_for_checkpoints_and_on_tensorboard(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor="val/psnr_output", mode="max", filename="best")
    run = trainer(tmp_path, Quality(), checkpoint, max_steps=6, enable_checkpointing=True)
    run.fit(DummyRestorer(0.5), loader(), loader())
    expected = (score(psnr, "05Noise", 0.5) + score(psnr, "09Lowlight_Haze", 0.5)) / 2
    assert run.callback_metrics["val/psnr_output"].item() == pytest.approx(expected, abs=1e-4)
    assert checkpoint.best_model_score.item() == pytest.approx(expected, abs=1e-4)
    log = events(tmp_path)
    assert log.Scalars("val_groups/05Noise/psnr_input")[0].value == pytest.approx(score(psnr, "05Noise", 0), abs=1e-4)
    gain = score(psnr, "05Noise", 0.5) - score(psnr, "05Noise", 0)
    assert log.Scalars("val_groups/05Noise/psnr_gain")[0].value == pytest.approx(gain, abs=1e-4)
    assert "val_groups/00Clean/psnr_output" in log.Tags()["scalars"] and "val_groups/00Clean/psnr_gain" not in log.Tags()["scalars"]


class Backbone(DummyRestorer):
    """Validates without restoring anything."""

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        return {"loss": batch["gt"].mean()}


def test_a_module_that_restores_nothing_is_left_alone(tmp_path):
    run = trainer(tmp_path, Quality(), max_steps=2)
    run.fit(Backbone(), loader(), loader())
    assert not [name for name in run.callback_metrics if "psnr" in name]
