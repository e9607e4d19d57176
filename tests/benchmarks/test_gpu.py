"""The steps for a GPU, rehearsed on the CPU at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import steps
from benchmarks.gpu.steps import STEPS, Options, StepFailed, run_step
from benchmarks.gpu.training import join, split

ROOT = Path(__file__).parents[2]


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "benchmarks.gpu", *arguments, "--out", str(out), "--tiny"], cwd=ROOT, env=environment)


def read(out: Path, step: str) -> dict:
    found = json.loads((out / f"{step}.json").read_text())
    assert found["error"] is None and found["torch"] == torch.__version__ and found["device"] and found["seconds"] > 0
    return found["figures"]


@pytest.mark.long
def test_every_measurement_runs_and_writes_its_figures(tmp_path):
    assert run(tmp_path, *(name for name in STEPS if name != "train")).returncode == 0
    assert read(tmp_path, "tests")["passed"] > 5
    assert all(row["ms"]["ours 4"] > 0 for row in read(tmp_path, "dispatch")["rows"])
    assert read(tmp_path, "sd35")["eager"]["images_per_second"] > 0
    assert set(read(tmp_path, "ranks")["strategies"]) == {"auto", "ddp", "fsdp2"}
    assert {row["steps"] for row in read(tmp_path, "restore")["rows"]} == {0, 2}
    assert len(read(tmp_path, "conditioning")["variants"]) == 4


@pytest.mark.long
def test_a_training_goes_on_from_the_parts_of_its_checkpoint(tmp_path):
    assert run(tmp_path / "first", "train").returncode == 0
    first = read(tmp_path / "first", "train")
    assert first["global_step"] == 2 and first["parts"]
    assert all((tmp_path / "first" / part).stat().st_size < 16 << 20 for part in first["parts"])
    again = ["train", "--resume", str(tmp_path / "first"), "--data", str(tmp_path / "first" / "data")]
    assert run(tmp_path / "second", *again, "--fit=--trainer.max_steps=3").returncode == 0
    assert read(tmp_path / "second", "train")["global_step"] == 3


def test_parts_make_the_file_again_and_replace_older_ones(tmp_path):
    file = tmp_path / "last.ckpt"
    file.write_bytes(os.urandom(2500))
    assert split(file, tmp_path, part=400) == [f"checkpoint.0{number}" for number in range(7)]
    assert len(split(file, tmp_path, part=1000)) == 3 and len(list(tmp_path.glob("checkpoint.*"))) == 3
    assert join(tmp_path, tmp_path / "again.ckpt").read_bytes() == file.read_bytes()
    with pytest.raises(ValueError, match="checkpoint.00"):
        join(tmp_path / "empty", tmp_path / "again.ckpt")


def test_a_failed_step_writes_its_error_and_the_figures_it_has(tmp_path, monkeypatch):
    def broken(processes):
        raise StepFailed("out of memory", {"eager": 1})

    monkeypatch.setitem(steps.STEPS, "sd35", broken)
    assert not run_step("sd35", Options(tmp_path))
    found = json.loads((tmp_path / "sd35.json").read_text())
    assert found["error"] == "out of memory" and found["figures"] == {"eager": 1}


def test_a_process_that_outlasts_its_step_is_ended_with_its_output_kept(tmp_path):
    processes = steps.Processes(Options(tmp_path, limit=2))
    with pytest.raises(StepFailed, match="limit of 2 seconds.*begun"):
        processes.run("-c", "import time; print('begun'); time.sleep(60)")
