"""Scores by group: what is logged and what is written, against the metrics applied image by image."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import Quality
from mimdit.evaluation.metrics import psnr, ssim
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer


def score(metric, group: str, weight: float) -> float:
    """Mean over a group's samples of the metric after moving ``weight`` of the way to the truth."""
    members = [s for s in samples() if s["group"] == group]
    return sum(metric((s["lq"] + weight * (s["gt"] - s["lq"]))[None], s["gt"][None]).item() for s in members) / len(members)


def test_results_hold_every_group_and_both_averages(tmp_path):
    trainer(tmp_path, Quality(settings={"note": "x"})).test(DummyRestorer(0.5), loader(batch_size=5), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["groups"]) == ["00Clean", "05Noise", "09Lowlight_Haze"]
    for group in ("05Noise", "09Lowlight_Haze"):
        row = results["groups"][group]
        assert row["images"] == 4
        for name, weight in (("input", 0), ("output", 0.5), ("residuals_zeroed", 0), ("gates_uniform", 1)):
            assert row[f"psnr_{name}"] == pytest.approx(score(psnr, group, weight), abs=1e-4)
            assert row[f"ssim_{name}"] == pytest.approx(score(ssim, group, weight), abs=1e-5)
        assert "psnr_estimate" not in row
    average = (score(psnr, "05Noise", 0.5) + score(psnr, "09Lowlight_Haze", 0.5)) / 2
    assert results["average"]["psnr_output"] == pytest.approx(average, abs=1e-4)
    assert results["average_over_groups"]["psnr_output"] == pytest.approx(average, abs=1e-4)
    assert results["left_out"] == ["00Clean"] and results["groups"]["00Clean"]["psnr_input"] == 100
    assert results["settings"]["seed"] == 3 and results["settings"]["note"] == "x"


def test_nothing_but_the_results_is_left_behind(tmp_path):
    path = tmp_path / "deep" / "scores.json"
    trainer(tmp_path, Quality(str(path)), tensorboard=False).test(DummyRestorer(), loader(), verbose=False)
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]


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
