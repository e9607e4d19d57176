"""An empty folder for each test, and the config of the tiny experiment."""

import sys
from pathlib import Path

import pytest

from tests.cli import tiny_experiment
from tests.cli.tiny_experiment import QUIET, written


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, under the program's own name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    monkeypatch.delenv("MIMDIT_TRACEBACK", raising=False)


@pytest.fixture
def config(tmp_path) -> Path:
    """A whole config of the tiny experiment."""
    head = {"class_path": f"{tiny_experiment.__name__}.Head", "init_args": {"width": 2}}
    content = {
        "trainer": QUIET | {"default_root_dir": str(tmp_path)},
        "model": {"class_path": f"{tiny_experiment.__name__}.TinyModel", "init_args": {"head": head}},
        "data": {"class_path": f"{tiny_experiment.__name__}.TinyData", "init_args": {"batch_size": 4}},
    }
    return written(tmp_path / "tiny.yaml", content)
