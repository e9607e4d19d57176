"""Test sets of another library's degradations: what is planned is pinned, what is written is read as a benchmark."""

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.synthetic.photographs import TEST, VALIDATION, load_photograph, photograph_crop
from datamodules.test_sets import PairFolders

FOLDER = Path(__file__).parents[2] / "benchmarks"
FROZEN = {
    "validation": "5c7ee87f84cabd3991c7dfa3f56c0082c2fa08ffe11788a5ea43ad3f27f5ccad",
    "test": "81fda2bb4c4dd11065b73d4f5a71f5bc5cca785920e7520520d670bb79ebc72d",
}
"""SHA-256 of the recipes: kinds, parameters, photographs and seeds are fixed before anything is trained."""

needs_albumentations = pytest.mark.skipif(
    importlib.util.find_spec("albumentations") is None, reason="albumentations, a development dependency, is not installed"
)


@pytest.fixture(scope="module")
def foreign():
    """The script's names."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("foreign", FOLDER / "foreign.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["foreign"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("foreign", None)


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    """One photograph in a folder."""
    home = tmp_path / "photographs"
    home.mkdir()
    (home / "coffee.png").write_bytes(cv2.imencode(".png", load_photograph("coffee")[..., ::-1])[1].tobytes())
    return home


@pytest.mark.parametrize("half, photographs", [("validation", VALIDATION), ("test", TEST)])
def test_recipes_are_those_of_always(foreign, half, photographs):
    planned = foreign.recipes(photographs, 256)
    assert len(planned) == 9 * 4 * 3 and len({(recipe.kind, recipe.name) for recipe in planned}) == len(planned)
    assert foreign.digest(planned) == FROZEN[half]


@needs_albumentations
def test_two_processes_write_the_same_pairs_which_are_read_as_a_benchmark(foreign, folder, tmp_path, monkeypatch):
    arguments = ["--photographs", str(folder), "--size", "64"]
    command = [sys.executable, str(FOLDER / "foreign.py"), str(tmp_path / "one"), *arguments]
    path = os.pathsep.join(filter(None, (str(FOLDER.parent), os.environ.get("PYTHONPATH"))))
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path})
    monkeypatch.setattr(sys, "argv", ["foreign.py", str(tmp_path / "two"), *arguments])
    runpy.run_path(str(FOLDER / "foreign.py"), run_name="__main__")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    found = PairFolders(str(tmp_path / "one" / "photographs")).find()
    assert len(found.entries) == 9 * 3 and not found.unpaired
    for entry in found.entries:
        assert entry.group in foreign.KINDS


@needs_albumentations
@pytest.mark.parametrize("kind, least", [("lowlight_gamma", 0.1), ("lowlight_contrast", 0.1)])
def test_darkening_darkens_more_from_draw_to_draw(foreign, kind, least):
    clean = photograph_crop("coffee", 64)
    planned = [recipe for recipe in foreign.recipes(("coffee",), 64) if recipe.kind == kind]
    means = [clean.mean(), *(foreign.degrade(clean, recipe).mean() for recipe in planned)]
    assert (np.diff(means) < -255 * least / 3).all() and means[1] < means[0] - 255 * least


@needs_albumentations
@pytest.mark.parametrize("kind", ["noise_gauss", "noise_iso", "blur_motion", "blur_defocus", "jpeg_compression", "haze_fog"])
def test_later_draws_are_worse(foreign, kind):
    clean = photograph_crop("coffee", 64)
    planned = [recipe for recipe in foreign.recipes(("coffee",), 64) if recipe.kind == kind]
    errors = [np.square(foreign.degrade(clean, recipe).astype(float) - clean).mean() for recipe in planned]
    assert 0 < errors[0] < errors[1] < errors[2]


@needs_albumentations
def test_another_version_is_refused(foreign, monkeypatch):
    monkeypatch.setattr("albumentations.__version__", "3.0.0")
    with pytest.raises(ValueError, match="is 3.0.0.*2.0.8"):
        foreign.degrade(photograph_crop("coffee", 64), foreign.recipes(("coffee",), 64)[0])
