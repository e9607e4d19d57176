"""``mimdit plan``: at once from the cache, and anew for a config without weights, data or GPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mimdit.cli import main
from mimdit.planning import cache
from mimdit.planning.text import render
from tests.planning.made_plans import made_plan
from tests.tiny_models import restorer_config

REPOSITORY = Path(__file__).parents[2]


def run(folder: Path, *words: object, code: str = "from mimdit.cli import main; main()") -> subprocess.CompletedProcess:
    """Run a command by itself; its device cannot be taken out of a process again."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a tiny config."""
    place = tmp_path_factory.mktemp("plan")
    config = {
        "trainer": {"max_steps": 100, "precision": "bf16-mixed", "gradient_clip_val": 1.0, "strategy": "ddp"},
        "model": restorer_config(),
        "data": {"class_path": "datamodules.RestorationDataModule", "init_args": {"train": "not/here", "batch_size": 4, "crop": 32}},
    }
    (place / "tiny.yaml").write_text(yaml.safe_dump(config))
    return place


def test_a_cached_plan_comes_within_two_seconds_and_without_torch(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    keyed = {
        "config": ["tiny.yaml"],
        "options": (),
        "nodes": 2,
        "gpus": 8,
        "gpu": "h100",
        "link": 400.0,
        "samples": None,
        "latents": None,
        "measured": None,
    }
    cache.store(cache.cache_key(keyed | {"assume": {}}, ["tiny.yaml"]), made_plan())
    code = "import sys; from mimdit.cli import main; main(); assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    started = time.perf_counter()
    done = run(folder, "plan", "--config", "tiny.yaml", "--nodes", 2, code=code)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == render(made_plan()).strip() and "counting" not in done.stderr
    assert seconds <= 2


def test_the_text_names_every_assumption():
    plan = made_plan()
    text = render(plan)
    assert all(f"\n  {name}=" in text for name in plan["assumptions"])
    assert "images/s" in text and "GPU hours" in text and "the largest batch that fits is" in text


@pytest.mark.parametrize("option", ["--nodes=0", "--link=-1", "--samples=0"])
def test_numbers_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--config", "x.yaml", option])
    assert "must be above 0" in capsys.readouterr().err


@pytest.mark.long
def test_a_plan_needs_no_gpu_weights_or_data(folder):
    words = [
        "plan",
        "--config",
        "tiny.yaml",
        "--nodes",
        4,
        "--samples",
        1000,
        "--assume",
        "links=1",
        "--json",
        "--",
        "--trainer.max_steps=50",
    ]
    done = run(folder, *words)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["ranks"], plan["run"]["max_steps"], plan["run"]["images_per_step"]) == (32, 50, 128)
    assert plan["memory"]["verdict"] == "fits" and plan["memory"]["largest_batch"] > 1000
    assert plan["assumptions"]["links"]["best"] == 1
    assert [row["gpus"] for row in plan["table"]] == [1, 8, 16, 32, 64, 128, 256, 512]
    stored = set((folder / "cache" / "mimdit" / "plans").glob("*.json"))
    assert stored and json.loads(run(folder, *words).stdout) == plan
    assert set((folder / "cache" / "mimdit" / "plans").glob("*.json")) == stored


@pytest.mark.long
def test_the_peak_of_stable_diffusion_is_that_of_the_real_allocator(tmp_path):
    """PyTorch's caching allocator counted 42.48 GiB on one GPU and 37.48 under FSDP2 on eight, and 2.45 less without autocast around the
    frozen transformer."""
    for strategy, gpus, peak in ((), 1, 40.03), (("--config", REPOSITORY / "configs/fsdp2.yaml"), 8, 35.03):
        config = REPOSITORY / "configs/foundir_sd35_medium.yaml"
        done = run(tmp_path, "plan", "--config", config, *strategy, "--gpus", gpus, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["memory"]["peak_gib"] == pytest.approx(peak, rel=0.015)


@pytest.mark.long
def test_flux_at_full_size_is_planned_without_its_weights(tmp_path):
    """Its 11.9 billion weights are 22.2 GiB in bf16, and a step's activations come on top of them."""
    done = run(tmp_path, "plan", "--config", REPOSITORY / "configs/foundir_flux1_dev.yaml", "--gpus", 1, "--json")
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory"]
    assert memory["verdict"] == "fits" and memory["peak_gib"] == pytest.approx(44.2, rel=0.02)
