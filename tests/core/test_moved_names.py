"""Names of before the move, as configs, checkpoints and exported folders hold them."""

import subprocess
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from torch.optim.lr_scheduler import LRScheduler

import mimdit
from mimdit.core.moved_names import MOVED

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.* has moved to:FutureWarning")


@pytest.mark.parametrize("old", MOVED)
def test_the_new_module_is_there_and_the_old_one_is_not(old):
    assert PathFinder.find_spec(MOVED[old], [str(ROOT.joinpath(*MOVED[old].split(".")[:-1]))]) is not None
    assert not list(ROOT.joinpath(*old.split(".")[:-1]).glob(f"{old.split('.')[-1]}.py"))
    assert not ROOT.joinpath(*old.split("."), "__init__.py").exists()


@pytest.mark.parametrize(
    "old", ["mimdit.optimization", "mimdit.pipeline", "datamodules.benchmarks", "datamodules.benchmarks.benchmark", "callbacks.strips"]
)
def test_an_old_module_holds_what_the_new_one_does(old):
    new = import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public and all(getattr(import_module(old), name) is getattr(new, name) for name in public)


def test_the_restorers_old_module_is_now_a_package_that_exports_it():
    assert import_module("mimdit.restorer").Restorer is mimdit.Restorer


def test_a_config_with_an_old_class_path_parses_with_the_arguments_of_the_class():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LRScheduler, "scheduler", skip={"optimizer"})
    given = {"class_path": "mimdit.optimization.WarmupCosine", "init_args": {"total_steps": 200}}
    assert parser.parse_object({"scheduler": given}).scheduler.init_args.warmup_steps == 100


def test_the_new_name_is_told_and_a_folder_left_behind_is_not_taken_for_the_package(tmp_path):
    (tmp_path / "datamodules" / "made" / "__pycache__").mkdir(parents=True)
    code = (
        "import mimdit, datamodules; datamodules.__path__.append('datamodules')\n"
        "from datamodules.made.tone import random_tone; print(random_tone.__module__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert ran.stdout == "datamodules.synthetic.tone\n", ran.stderr
    assert "datamodules.made has moved to datamodules.synthetic" in ran.stderr


def test_a_name_that_never_was_is_an_import_error():
    with pytest.raises(ModuleNotFoundError, match="mimdit.optimized"):
        import_module("mimdit.optimized")
