"""Recipes of containers: both install the same, from files that exist, with the pinned versions."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dockerfile() -> dict:
    text = (ROOT / "slurm/Dockerfile").read_text()
    joined = text.replace("\\\n", " ")
    copied = [name for line in re.findall(r"^COPY (.+)$", joined, re.M) for name in line.split()[:-1]]
    commands = [part.strip() for line in re.findall(r"^RUN (.+)$", joined, re.M) for part in line.split("&&")]
    return {"from": re.search(r"^FROM (.+)$", joined, re.M)[1], "copied": copied, "commands": commands}


def definition() -> dict:
    text = (ROOT / "slurm/mimdit.def").read_text()
    header, files, post = re.split(r"^%files\n|^%post\n", text, flags=re.M)
    copied = [line.split() for line in files.splitlines() if line.strip()]
    assert all(target == f"/opt/mimdit/{source}" for source, target in copied)
    commands = [line.strip() for line in post.splitlines() if line.strip() and not line.strip().startswith("#")]
    subprocess.run(["bash", "-n"], input=post, text=True, check=True)
    return {"from": re.search(r"^From: (.+)$", header, re.M)[1], "copied": [source for source, _ in copied], "commands": commands}


def test_both_recipes_install_the_same():
    docker, apptainer = dockerfile(), definition()
    assert docker["from"] == apptainer["from"] and docker["copied"] == apptainer["copied"]

    def essential(recipe):
        return [" ".join(command.split()) for command in recipe["commands"] if command.startswith(("apt-get", "python"))]

    assert essential(docker) == essential(apptainer)
    installs = [command for command in essential(docker) if "pip install" in command]
    assert len(installs) == 2 and all(command.endswith("-c constraints.txt") for command in installs)


def test_the_image_has_every_package_and_a_python_that_is_allowed():
    project, recipe = tomllib.loads((ROOT / "pyproject.toml").read_text()), dockerfile()
    packages = {include.split("*")[0].rstrip(".") for include in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(recipe["copied"]) and all((ROOT / name).exists() for name in recipe["copied"])
    ignored = (ROOT / "slurm/Dockerfile.dockerignore").read_text().splitlines()
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == set(recipe["copied"])
    minimum = tuple(map(int, re.search(r">=(\d+)\.(\d+)", project["project"]["requires-python"]).groups()))
    assert tuple(map(int, re.search(r"python:(\d+)\.(\d+)", recipe["from"]).groups())) >= minimum


@pytest.mark.long
def test_what_the_image_copies_is_enough_to_build_the_package(tmp_path):
    for name in dockerfile()["copied"]:
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path / name)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path / "out"), str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert len(list((tmp_path / "out").glob("mimdit-*.whl"))) == 1
