"""Scores of a test as they are written: on a module whose every output is known, and of the real model over one and two processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyiqa
import pytest
import torch
from PIL import Image

from callbacks import Scores
from callbacks.scores import routing_of
from datamodules import TestSetDataModule
from datamodules.test_sets import PairFolders, Unpaired
from mimdit.evaluation.iqa import Scorer
from mimdit.evaluation.iqa.fid_kid import InceptionFeatures, set_distances
from mimdit.evaluation.results import read_results
from mimdit.restorer.sampling import SamplingSettings
from tests.callbacks.dummy import DummyRestorer, loader, trainer
from tests.datamodules.test_sets.made_trees import make, pixels
from tests.evaluation.iqa.made_weights import make_weights
from tests.routing.made_routing import made_routing
from tests.tiny_models import tiny_restorer

ROOT = Path(__file__).parents[2]
METRICS = ["psnr", "psnr_ycbcr", "ssim", "niqe"]


class HalfWay(DummyRestorer):
    """Moves images half of the way to their truths, and those without a little nearer to gray."""

    def test_step(self, batch: dict, batch_idx: int) -> dict:
        truth = batch.get("gt", 0.9 * batch["lq"] + 0.05)
        return {"restored": batch["lq"] + 0.5 * (truth - batch["lq"]), "routing": made_routing(1)}


def trees(folder: Path, **options) -> TestSetDataModule:
    make(folder / "GoPro", *(f"{side}/{number}.png" for side in ("input", "target") for number in range(3)))
    make(folder / "VV", "1.png", "deep.er/2.png")
    test_sets = {"motion": PairFolders(str(folder / "GoPro"), metrics=["psnr_gt_mean"]), "VV": Unpaired(str(folder / "VV"))}
    return TestSetDataModule(test_sets, num_workers=0, **options)


def run(folder: Path, data: TestSetDataModule, **options) -> tuple[list[dict], dict]:
    """The lines and the means of a test."""
    settings = {name: options.pop(name) for name in ("strategy", "devices") if name in options}
    trainer(folder, Scores(**{"metrics": METRICS} | options), tensorboard=False, **settings).test(HalfWay(), data, verbose=False)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return lines, json.loads((folder / "results.json").read_text())


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "cache"))


def test_a_line_an_image_with_both_scores_and_reasons(tmp_path):
    lines, results = run(tmp_path / "run", trees(tmp_path))
    names = [("motion", "GoPro", "0"), ("motion", "GoPro", "1"), ("motion", "GoPro", "2"), ("VV", "VV", "1"), ("VV", "VV", "deep.er/2")]
    assert [(line["test_set"], line["group"], line["key"]) for line in lines] == names
    lq, gt = (torch.from_numpy(pixels(f"{side}/1.png")).permute(2, 0, 1)[None].contiguous().float() / 255 for side in ("input", "target"))
    scorer = Scorer([*METRICS, "psnr_gt_mean"])
    assert (lines[1]["output"], lines[1]["notes"]) == scorer.score(lq + 0.5 * (gt - lq), gt)
    assert lines[1]["input"] == scorer.score(lq, gt)[0] and lines[1]["degradations"] == ["blur"]
    assert lines[1]["notes"] == {"niqe": "weights missing"} and "routing" not in lines[1]
    assert lines[3]["output"] == dict.fromkeys(METRICS) and lines[3]["notes"]["psnr"] == "no ground truth"
    motion = results["test_sets"]["motion"]
    assert motion["mean_of_images"]["output"]["psnr"] == pytest.approx(np.mean([line["output"]["psnr"] for line in lines[:3]]))
    assert motion["protocol"]["layout"] == "PairFolders" and motion["protocol"]["crop"] == 1
    assert results["test_sets"]["VV"]["notes"]["psnr"] == {"no ground truth": 2}
    assert "niqe_modelparameters.mat" in results["missing_weights"]["niqe"] and results["settings"]["seed"] == 3


def test_kept_images_are_what_was_scored(tmp_path):
    lines, _ = run(tmp_path / "run", trees(tmp_path), images=True, routing=True)
    assert (tmp_path / "run/images/VV/VV/deep.er/2.png").is_file()
    kept = np.asarray(Image.open(tmp_path / "run/images/motion/GoPro/2.png"))
    error = np.mean((kept.astype(np.float64) - pixels("target/2.png")) ** 2)
    assert lines[2]["output"]["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
    assert lines[2]["routing"] == routing_of(made_routing(1), 0)


def test_routing_by_block_group_and_sub_expert():
    routing = made_routing(4)
    told = routing_of(routing, 2)
    blocks, groups = routing.inter.probs.shape[0], routing.inter.probs.shape[2]
    assert len(told["inter"]) == blocks and all(len(block) == groups for block in told["inter"])
    sizes = [[len(experts) for experts in block] for block in told["intra"]]
    assert sizes == [[routing.intra.probs.shape[3]] * groups] * blocks
    assert sum(told["intra"][0][1]) == pytest.approx(1, abs=1e-5)


def test_the_settings_of_a_restorers_sampling_are_recorded(tmp_path):
    restorer = tiny_restorer(conditioner={"identify": True}, caution=0.5, test_tile=64, test_ablations=False)
    trainer(tmp_path, Scores(["psnr"]), tensorboard=False).test(restorer, loader(), verbose=False)
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert SamplingSettings(**settings["sampling"]) == restorer.sampling_settings(tile=64)
    assert settings["sampling"]["caution"] == 0.5 and settings["sampler"]["steps"] == 2
    assert read_results(tmp_path).settings == settings


def test_a_module_that_is_no_restorer_has_no_settings_of_sampling(tmp_path):
    _, results = run(tmp_path / "run", trees(tmp_path))
    assert "sampling" not in results["settings"]


def test_an_unknown_metric_is_told_before_anything_runs():
    with pytest.raises(ValueError, match="metric 'psrn' is not known"):
        Scores(metrics=["psrn"])


def test_values_that_are_not_finite_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        Scorer(["psnr"]).score(torch.full((1, 3, 8, 8), float("nan")), torch.zeros(1, 3, 8, 8))


@pytest.mark.long
def test_distances_of_sets_stand_beside_the_means(tmp_path):
    make_weights("kid")
    _, results = run(tmp_path / "run", trees(tmp_path), metrics=["psnr", "kid"])
    motion, night = results["test_sets"]["motion"], results["test_sets"]["VV"]
    features, sets = InceptionFeatures(), {"input": [], "output": [], "truth": []}
    for number in range(3):
        lq, gt = (torch.from_numpy(pixels(f"{side}/{number}.png")).permute(2, 0, 1)[None].float() / 255 for side in ("input", "target"))
        for name, image in (("input", lq), ("output", lq + 0.5 * (gt - lq)), ("truth", gt)):
            sets[name].append(features(image))
    for side in ("input", "output"):
        expected, _ = set_distances(["kid"], np.stack(sets[side]), np.stack(sets["truth"]))
        assert motion["mean_of_images"][side]["kid"] == pytest.approx(expected["kid"], rel=1e-4, abs=1e-9)
        assert motion["mean_of_groups"][side]["kid"] is None and motion["groups"]["GoPro"][side]["kid"] is None
    assert night["mean_of_images"]["output"]["kid"] is None and night["notes"]["kid"] == {"no ground truth": 2}


@pytest.mark.long
def test_the_real_model_over_one_and_two_processes_and_pyiqa_on_its_files(tmp_path):
    root = tmp_path / "rain"
    for number in range(5):
        make(root, f"input/{number}.png", f"target/{number}.png", height=40 + number, width=45)
    command = [sys.executable, "-m", "mimdit", "test", "--config", "configs/default.yaml", "--config", "configs/evaluate.yaml"]
    command += ["--model.init_args.pretrained=embedded", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    benchmark = {"rain": {"class_path": "datamodules.test_sets.PairFolders", "init_args": {"root": str(root)}}}
    command += [f"--data.init_args.benchmarks={json.dumps(benchmark)}", "--data.init_args.num_workers=0"]
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        options = [f"--trainer.devices={processes}", f"--trainer.default_root_dir={folder}"]
        options += ["--trainer.strategy=ddp", '--trainer.callbacks.init_args={"images": true}'] if processes == 2 else []
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results = json.loads((folder / "results.json").read_text())
        assert results["settings"].pop("ranks") == processes
        found.append(((folder / "results.jsonl").read_text(), results))
    assert found[0] == found[1]
    lines = [json.loads(line) for line in found[0][0].splitlines()]
    assert [line["key"] for line in lines] == list("01234")
    for line in lines:
        files = str(tmp_path / f"2/images/rain/rain/{line['key']}.png"), str(root / f"target/{line['key']}.png")
        for name in ("psnr", "psnry", "ssim", "ssimc"):
            assert line["output"][name] == pyiqa.create_metric(name, device="cpu")(*files).item(), name
