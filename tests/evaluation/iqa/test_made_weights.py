"""Loading weights from the caches, on made-up files: what is missing is told with its place, what is there gives pyiqa's own numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.iqa.made_weights import environment

ROOT = Path(__file__).parents[3]


def scores_of(folder: Path, *names: str) -> dict:
    command = [sys.executable, "-m", "tests.evaluation.iqa.score_with_made_weights", *names]
    done = subprocess.run(command, env=environment(folder), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(told: dict, folder: Path) -> None:
    for name, problem in told["before"].items():
        assert str(folder) in problem and "needs" in problem and "\n" not in problem, name
    assert told["missing"] == {} and told["notes"] == {}
    assert told["ours"] == told["theirs"]
    assert all(value != 0 for value in told["ours"].values())


def test_niqe_and_the_metrics_on_clip(tmp_path):
    told = scores_of(tmp_path, "niqe", "liqe", "clipiqa", "clipiqa+_vitL14_512")
    check(told, tmp_path)
    assert 1 <= told["ours"]["liqe"] <= 5 and 0 <= told["ours"]["clipiqa"] <= 1
    assert len(told["ours"]) == 4


@pytest.mark.long
def test_the_metrics_on_large_networks(tmp_path):
    told = scores_of(tmp_path, "lpips", "dists", "musiq", "maniqa-pipal", "fid")
    check(told, tmp_path)
    assert list(told["ours"]) == ["lpips", "dists", "musiq"]
