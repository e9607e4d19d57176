"""The model of scaling against closed forms, and the script at a tiny size."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import scaling

    return scaling


@pytest.fixture
def work(scaling):
    return scaling.Work(forward=3e13, backward=4e13, window=1e13, trained_bytes=4e8, frozen_bytes=4e9, first=1e8)


@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_of_links_all_alike_the_hierarchy_takes_as_long_as_a_flat_ring(scaling, gpus):
    assert scaling.Links(7.0, 7.0).pass_seconds(100.0, gpus) == pytest.approx((gpus - 1) / gpus * 100 / 7)


def test_bytes_are_those_of_the_rings(scaling, work):
    assert scaling.moved(work, "ddp", 8) == pytest.approx(2 * 7 / 8 * 4e8)
    assert scaling.moved(work, "fsdp2", 8) == pytest.approx(7 / 8 * (2 * 4.4e9 + 4e8))


@pytest.mark.parametrize("gpus", [8, 64])
def test_at_the_hiding_speed_nothing_is_exposed_and_below_it_something(scaling, work, gpus):
    speed = 4e14
    needed = scaling.hiding_speed(work, "ddp", gpus, speed)
    at = [scaling.exposed(work, "ddp", gpus, scaling.Links(factor * needed, factor * needed), speed) for factor in (1.0001, 0.99)]
    assert at[0] == 0 < at[1]
    needed = scaling.hiding_speed(work, "fsdp2", gpus, speed)
    links = [scaling.Links(factor * needed, factor * needed) for factor in (1.0001, 0.9)]
    first = [2 * link.pass_seconds(work.first, gpus) for link in links]
    at = [scaling.exposed(work, "fsdp2", gpus, link, speed) for link in links]
    assert at[0] == pytest.approx(first[0]) and at[1] > first[1] * 1.01


def test_the_networks_share_is_what_the_sum_leaves_it(scaling, work):
    speed, nvlink = 4e14, 4e11
    window = work.window / speed - 2 * 7 / 8 * work.trained_bytes / nvlink
    expected = 2 * 7 / 8 * work.trained_bytes / 8 / window
    assert scaling.hiding_network(work, "ddp", 64, nvlink, speed) == pytest.approx(expected, rel=0.01)
    assert scaling.hiding_network(work, "ddp", 8, nvlink, speed) is None
    assert scaling.efficiency(work, "ddp", 64, scaling.Links(nvlink, math.inf), speed) == 1


def run(tmp_path: Path, *options: str) -> dict:
    command = [sys.executable, str(FOLDER / "scaling.py"), "--size", "tiny", "--json", str(tmp_path / "figures.json"), *options]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"})
    return json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.long
def test_the_script_counts_predicts_and_measures(tmp_path):
    figures = run(tmp_path, "--measure", "--processes", "1", "2", "--steps", "2")
    weights, frozen, trained = figures["weights"], figures["work"]["frozen"], figures["work"]["trained"]
    assert frozen["trained_bytes"] == 4 * weights["conditioner"] and frozen["frozen_bytes"] == 2 * weights["transformer"]
    assert trained["trained_bytes"] == 4 * (weights["conditioner"] + weights["transformer"])
    assert 0 < frozen["window"] < frozen["backward"] < trained["backward"] and frozen["forward"] == trained["forward"]
    assert 0 < weights["largest unit"] < weights["transformer"]
    assert len(figures["predicted"]) == 12 and all(0 < value <= 1 for row in figures["predicted"] for value in row["efficiency"].values())
    for counts in figures["measured"].values():
        assert counts.keys() == {"1", "2"} and all(found["wall"] > 0 and found["cpu"] > 0 for found in counts.values())
