"""Every config of the repository is valid as its own head says it is used."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from tests.cli.tiny_experiment import parse

CONFIGS = Path(__file__).parents[2] / "configs"


def documented_command(path: Path) -> list[str]:
    """The command in the comments at the head of a config: one that is not whole by itself says there which files go before it."""
    head = "".join(re.findall(r"\A(?:#.*\n)*", path.read_text()))
    found = re.search(r"(?:mimdit|lightning) ((?:fit|validate|test|predict) [^`\n]*" + re.escape(path.name) + r"[^`\n]*)", head)
    return shlex.split(found[1]) if found else ["fit", "--config", f"configs/{path.relative_to(CONFIGS)}"]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_is_valid(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    part = yaml.safe_load(path.read_text()).get("class_path")
    if part is not None:  # a part that other configs name as a value
        package, _, name = part.rpartition(".")
        parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
        parser.add_subclass_arguments(getattr(import_module(package), name), "part")
        assert parser.parse_args(["--part", str(path)]).part.class_path == part
        return
    command = documented_command(path)
    options = [option for index, option in enumerate(command) if "--ckpt_path" not in (option, command[index - 1])]
    assert parse(*options).model.class_path.startswith("mimdit.")
