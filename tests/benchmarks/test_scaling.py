"""Scaling as the plan predicts it, at a tiny size, and the measurement on this machine's processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    return scaling


def test_efficiency_is_the_share_of_a_gpu_alone_at_either_end(scaling):
    assert scaling.efficiency([50.0, 100.0], [200.0, 800.0], 8) == [0.5, 1.0]


@pytest.mark.long
def test_the_script_counts_predicts_and_measures(tmp_path):
    config = ROOT / "configs/quickstart.yaml"
    options = ["--strategies", "ddp", "--transformers", "frozen", "--gpus", "8", "64", "--measure", "--processes", "1", "2", "--steps", "2"]
    command = [sys.executable, str(ROOT / "benchmarks/scaling.py"), "--config", str(config), "--json", "figures.json", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = figures["predicted"]
    assert [row["gpus"] for row in rows] == [8, 64] and all(row["padding"] == 1 for row in rows)
    assert rows[0]["over_network_gb"] == 0 < rows[1]["over_network_gb"] < rows[1]["out_of_gpu_gb"]
    for row in rows:  # a ring sends 2 (n - 1) / n of the gradients out of every GPU
        assert row["out_of_gpu_gb"] / rows[1]["out_of_gpu_gb"] == pytest.approx((1 - 1 / row["gpus"]) / (1 - 1 / 64), rel=1e-6)
        assert all(0 < share < 1 + 1e-9 for share in row["efficiency"])
        assert f"| frozen | ddp | {row['gpus']} |" in done.stdout
    for counts in figures["measured"].values():
        assert counts.keys() == {"1", "2"} and all(found["wall"] > 0 and found["cpu"] > 0 for found in counts.values())
