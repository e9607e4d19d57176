"""Verbs of the command line: the help, groups, former names, and unknown ones."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import lightning as L
import pytest

from mimdit import cli
from mimdit.core import signature
from tests.cli.tiny_experiment import told

ROOT = Path(__file__).parents[2]


def shown_without_torch(*args: str) -> str:
    """Output of ``mimdit args`` in a fresh interpreter, which must not import torch."""
    code = f"import sys; from mimdit.cli import main; main({list(args)}); sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_help_names_every_command_on_one_screen_without_importing_torch():
    shown = shown_without_torch("--help")
    assert len(shown.splitlines()) <= 40
    for verb in (*cli.TRAINER_VERBS, *cli.COMMANDS):
        assert re.search(rf"\n\W*{verb} ", shown), verb


def test_a_command_s_help_has_each_option_with_its_line_without_importing_torch():
    shown = " ".join(shown_without_torch("restore", "--help").split())
    assert "INPUTS OUTPUT" in shown and "--same-format" in shown and "--sigma-start FLOAT" in shown and "wavelet" in shown


def functions(commands: dict) -> list[str]:
    return [target for entry in commands.values() for target in (functions(entry) if isinstance(entry, dict) else [entry])]


@pytest.mark.parametrize("target", functions(cli.COMMANDS))
def test_every_command_is_shown_as_its_function_is_declared(target):
    function, shown = signature.load(target), signature.stand_in(target)
    assert signature.summary(target) == shown.__doc__.splitlines()[0] == function.__doc__.splitlines()[0] != ""
    declared = inspect.signature(function, eval_str=True).parameters.values()
    assert [(each.name, each.default, each.annotation) for each in inspect.signature(shown).parameters.values()] == [
        (each.name, each.default, each.annotation) for each in declared
    ]


@pytest.mark.parametrize("group", cli.ALIASES)
def test_former_names_of_commands_work_and_are_not_listed(capsys, group):
    for former in cli.ALIASES[group]:
        assert former not in shown(capsys, group) and "usage" in shown(capsys, group, former, "--help").lower()


def shown(capsys, *args: str) -> str:
    cli.main(args)
    return capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys):
    assert 'Did you mean "validate"?' in told(capsys, "valdate")


def test_the_alias_tells_whose_command_login_is(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/lightning"])
    message = told(capsys, "login")
    assert 'Unknown command "login"' in message and "lightning-sdk" in message


def test_a_group_finds_its_verbs(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", {"shapes": {"area": f"{__name__}:area"}})
    cli.main(["shapes", "area", "3", "--width", "4"])
    assert capsys.readouterr().out == "12 px\n"
    assert 'Unknown command "aria". Did you mean "area"?' in told(capsys, "shapes", "aria")
    assert "--widht. Did you mean --width?" in told(capsys, "shapes", "area", "3", "--widht", "4")


def area(height: int, *, width: int = 1, unit_name: str = "px") -> None:
    """Area of a rectangle."""
    print(height * width, unit_name)


@pytest.mark.parametrize("name", ["DiTBackbone", "MoEConditioner", "Restorer", "RoutingBalance"])
def test_the_package_exports_its_modules(name):
    assert issubclass(getattr(import_module("mimdit"), name), L.LightningModule)
