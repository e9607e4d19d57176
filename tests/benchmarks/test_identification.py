"""The benchmark of identification on made folders: what it reads, counts and writes."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.shards import ShardIndex, write_shard
from mimdit.core.batch import ATOMS

ROOT = Path(__file__).parents[2]


def png(value: int) -> bytes:
    """A gray image of one brightness."""
    return cv2.imencode(".png", np.full((16, 16, 3), value, np.uint8))[1].tobytes()


def put(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))


def shards(folder: Path) -> Path:
    """One clean image, and noisy ones of severity 0.2 and 0.6."""
    folder.mkdir()
    entries = []
    for group, atoms, images in (("00Clean", [], [(0.0, 10)]), ("05Noise", ["noise"], [(0.2, 20), (0.6, 200)])):
        samples = [
            {
                "__key__": f"{group}/{value}",
                "lq.png": png(value),
                "gt.png": png(0),
                "json": {"group": group, "atoms": atoms, "width": 16, "height": 16, "severity": severity},
            }
            for severity, value in images
        ]
        entries.append(write_shard(folder / f"{group}-000000.tar", group, samples).entry)
    ShardIndex(folder, tuple(entries), {}).save()
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the benchmark with a restorer that takes the brightness of an image, 0..1, as the probability of noise."""

    def run(*arguments: str) -> tuple[dict, str]:
        monkeypatch.syspath_prepend(ROOT)
        said = {"identify_pixels": lambda restorer, pixels, **_: dict.fromkeys(ATOMS, 0.0) | {"noise": float(pixels.mean()) / 255}}
        for name, value in said.items():
            monkeypatch.setattr(f"mimdit.restorer.identification.{name}", value)
        monkeypatch.setattr("mimdit.restorer.identification.check_identifies", lambda restorer: None)
        monkeypatch.setattr("mimdit.distributed.loading.load_restorer", lambda checkpoint: None)
        monkeypatch.setattr(
            sys, "argv", ["identification", *arguments, "--json", str(tmp_path / "a.json"), "--table", str(tmp_path / "a.md")]
        )
        runpy.run_module("benchmarks.identification", run_name="__main__")
        return json.loads((tmp_path / "a.json").read_text()), (tmp_path / "a.md").read_text()

    return run


def test_shards_below_the_severity_are_left_out_and_clean_images_stay(run, tmp_path):
    figures, table = run("--shards", str(shards(tmp_path / "made")))
    made = figures["made"]
    assert made["images"] == 2 and made["of_atoms"] == {"noise": 1.0} and made["map"] == 1
    assert made["named_where_present"] == {"noise": 1.0} and made["named_where_absent"]["noise"] == 0
    assert "| made: average precision | 2 | **1.000** |" in table
    assert run("--shards", str(tmp_path / "made"), "--min-severity", "0.1")[0]["made"]["named_where_present"] == {"noise": 0.5}


def test_foreign_photographs_count_once_as_those_without(run, tmp_path):
    for kind, values in {"noise_gauss": (250, 40), "haze_fog": (60, 70)}.items():
        for seed, value in enumerate(values):
            put(tmp_path / f"set/{kind}/lq/cat-{seed}.png", value)
            put(tmp_path / f"set/{kind}/gt/cat-{seed}.png", 50)
    found = run("--foreign", str(tmp_path / "set"))[0]["foreign"]
    assert found["images"] == 5  # noise by brightness: 250 yes, 70 no, 60 no, 50 no, 40 yes
    assert found["of_atoms"]["noise"] == pytest.approx((1 + 2 / 5) / 2) and set(found["of_atoms"]) == {"noise", "haze"}


def test_photographs_are_counted_by_degradation(run, tmp_path):
    for name, value in {"a_real": 200, "b_real": 100, "b_mean": 250}.items():
        put(tmp_path / f"pairs/{name}.png", value)
    figures, table = run("--noisy", str(tmp_path / "pairs"), "--untouched", str(tmp_path / "pairs"), "--limit", "1")
    assert figures["noisy"] == {"images": 2, "named": dict.fromkeys(ATOMS, 0) | {"noise": 1}}
    assert figures["untouched"]["images"] == 1 and "made" not in figures and "noise ≥ 80 %" in table
