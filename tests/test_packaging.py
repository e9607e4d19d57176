"""Packaging: the wheel works outside the repository; the constraints are exact versions."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
WEIGHTS = REPOSITORY / "mimdit" / "weights"


def test_constraints_are_exact_versions_without_addresses():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line)] == []


def test_constraints_pin_every_dependency_and_leave_cudas_parts_to_torch():
    pinned = {normal(line.partition("==")[0]) for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    assert {normal(re.match(r"[\w.-]+", each)[0]) for each in wanted} - {"mimdit"} <= pinned
    assert not {name for name in pinned if name.startswith(("nvidia-", "cuda-", "triton"))}


def test_the_developers_extra_is_all_extras():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["dev"] == [f"mimdit[{','.join(sorted(set(extras) - {'dev'}))}]"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run([str(each) for each in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's content and nothing else of ours; the wheel is built from the files that git would ship."""
    folder = tmp_path_factory.mktemp("wheel")
    source, target = folder / "source", folder / "target"
    files = run("git", "ls-files", "-z", cwd=REPOSITORY).split("\0")
    for file in filter(None, files):
        if (REPOSITORY / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((REPOSITORY / file).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("mimdit-*.whl")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel, cwd=folder)
    return target


def in_wheel(installed: Path, code: str) -> str:
    """Output of ``code``, with the installed packages before the repository's own."""
    return run(sys.executable, "-c", code, cwd=installed.parent, PYTHONPATH=str(installed), OMP_NUM_THREADS="1")


@pytest.mark.long
def test_the_wheel_holds_every_module_and_weight_and_nothing_else(installed):
    (wheel,) = installed.parent.glob("mimdit-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = run("git", "ls-files", "mimdit", "datamodules", "callbacks", cwd=REPOSITORY).splitlines()
    assert packed == {name for name in shipped if (REPOSITORY / name).is_file()}


@pytest.mark.long
def test_the_packages_import_from_the_wheel(installed):
    code = "import mimdit, datamodules, callbacks; print(mimdit.__file__, datamodules.__file__, callbacks.__file__); mimdit.Restorer"
    assert all(file.startswith(str(installed)) for file in in_wheel(installed, code).split())


@pytest.mark.long
@pytest.mark.parametrize("name", ["mimdit", "lightning"])
def test_the_commands_of_the_wheel_run(installed, name):
    script = installed / "bin" / name
    assert "fit" in run(sys.executable, script, "--help", cwd=installed.parent, PYTHONPATH=str(installed))
    assert "--trainer.max_steps" in run(sys.executable, script, "fit", "--help", cwd=installed.parent, PYTHONPATH=str(installed))


@pytest.mark.long
@pytest.mark.skipif(not (WEIGHTS / "restorer").is_dir(), reason="this tree has no embedded restorer yet")
def test_the_embedded_default_restores_from_the_wheel(installed):
    code = (
        "import torch, mimdit\n"
        "images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))\n"
        "restored = mimdit.Restorer.from_pretrained().restore(images)\n"
        "print(mimdit.__file__, tuple(restored.shape), bool(restored.isfinite().all()))"
    )
    shown = in_wheel(installed, code).splitlines()[-1]
    assert shown.startswith(str(installed)) and shown.endswith("(1, 3, 64, 64) True")
