"""pyiqa is imported by the first of its metrics that is loaded, and by nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HIDDEN = "import sys; sys.modules['pyiqa'] = None\n"
"""Makes every import of pyiqa fail."""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_are_listed_and_images_scored_by_our_own_without_pyiqa():
    code = """
import torch
from mimdit import cli
cli.main(["metrics", "list"])
from mimdit.evaluation.iqa import Scorer
print(Scorer(["psnr_rgb", "ssim_rgb"]).score(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)))
import callbacks, mimdit.commands.restore, mimdit.commands.trainer, mimdit.commands.report, mimdit.evaluation.report
from mimdit.evaluation.report.tables import lower_is_better
assert lower_is_better("lpips") and lower_is_better("psnr") is False and lower_is_better("x") is None
"""
    text = run(HIDDEN + code)
    assert "niqe_modelparameters.mat" in text and "ViT-L-14.pt" in text and "'psnr_rgb': 100.0" in text


def test_the_first_metric_of_pyiqa_imports_it():
    code = """
import sys
from mimdit.evaluation.iqa import Scorer
before = "pyiqa" in sys.modules
Scorer(["psnr"])
print(before, "pyiqa" in sys.modules)
"""
    assert run(code).split() == ["False", "True"]


FIT = [
    *("fit", "--config", "experiment.yaml", "--trainer.max_steps=1", "--trainer.default_root_dir=on", "--data.init_args.validation=pairs"),
    *("--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null", "--trainer.callbacks+=callbacks.Quality"),
]
RESTORE = ["restore", "pairs/08Haze/LQ", "out"]


@pytest.mark.parametrize("command", [FIT, RESTORE], ids=["fit", "restore"])
def test_training_and_restoring_never_load_it(tmp_path, command):
    shutil.copytree(ROOT / "tests/data/before", tmp_path / "before")
    code = f"""
import os, sys
from mimdit import cli
os.chdir({str(tmp_path / "before")!r})
sys.argv = ["mimdit"]
cli.main({command!r})
print("pyiqa" in sys.modules)
"""
    assert run(code).splitlines()[-1] == "False"
