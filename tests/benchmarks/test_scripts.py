"""The benchmarks that are meant for devices which the tests do not have: they run, at a tiny size, and their figures hang together."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a script with arguments as from the command line; what it wrote as JSON."""

    def run(script: str, *arguments: str) -> dict:
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--json", str(tmp_path / "figures.json")])
        runpy.run_path(str(FOLDER / script), run_name="__main__")
        return json.loads((tmp_path / "figures.json").read_text())

    return run


@pytest.mark.long
def test_a_training_step_of_sd35_medium(run):
    figures = run("sd35_step.py", "--tiny", "--peak-tflops", "2")
    rate = 2 / figures["seconds"]["step in a row"]
    assert figures["images_per_second"] == pytest.approx(rate)
    assert figures["mfu"] == pytest.approx(figures["flops_per_image"] * rate / 2e12)
    assert figures["transformer_flops_per_second"] > 0 and all(value > 0 for value in figures["seconds"].values())


@pytest.mark.long
def test_conditioning(run):
    figures = run("conditioning.py", "--flops-size", "tiny", "--time-size", "tiny", "--rounds", "1")
    bare, ours, controlnet, concatenated = (row["flops"] for row in figures["variants"].values())
    # The conditioner runs once in 28 steps, the others at every one.
    assert ours["restoration"] / bare["restoration"] - 1 < (ours["step"] / bare["step"] - 1) / 20
    assert min(controlnet["restoration"], concatenated["restoration"]) > 1.3 * bare["restoration"]
    for row in figures["variants"].values():
        assert all(row["seconds"][what] > 0 and row["peak_mib"][what] > 0 for what in ("step", "restoration"))
