"""A test of today gives the figures that both callbacks gave before schema 1, from the same checkpoint, data and YAML files."""

import shutil
import sys
from pathlib import Path

import pytest

from mimdit import cli
from mimdit.evaluation.results import read_results
from mimdit.evaluation.summary import sides_of

BEFORE = Path(__file__).parents[1] / "data/before"
OPTIONS = {
    "quality": ['--trainer.callbacks=[{"class_path": "callbacks.EMAUpdate"}, {"class_path": "callbacks.Quality"}]'],
    "scores": ["--config", "evaluate.yaml"],
}


@pytest.mark.filterwarnings("ignore:.* has moved to:FutureWarning")
@pytest.mark.parametrize("name", OPTIONS)
def test_every_mean_is_that_of_before(tmp_path, monkeypatch, name):
    shutil.copytree(BEFORE, tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    run = ["--config", "experiment.yaml", "--trainer.logger=false", "--trainer.default_root_dir=today"]
    cli.main(["test", *run, *OPTIONS[name], "--ckpt_path", "run/checkpoints/step=0000003.ckpt"])
    then, today = read_results(Path("results", name)), read_results(Path("today"))
    assert then.summaries.keys() == today.summaries.keys() and len(today.rows) == 6
    for test_set, old in then.summaries.items():
        new = today.summaries[test_set]
        assert new["left_out"] == old["left_out"] == ["00Clean"] and new["groups"].keys() == old["groups"].keys()
        pairs = [(old["groups"][group], new["groups"][group]) for group in old["groups"]]
        pairs += [(old[mean], new[mean]) for mean in ("mean_of_images", "mean_of_groups")]
        for before, now in pairs:
            assert sides_of(before) == sides_of(now) and before["images"] == now["images"]
            for side in sides_of(before):
                for metric, value in before[side].items():
                    assert now[side][metric] == (None if value is None else pytest.approx(value, abs=1e-4, rel=1e-5)), (side, metric)
