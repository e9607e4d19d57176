"""Options of this project's own verbs: their words become the values that a function declares, or a mistake that names the word."""

import ast
import inspect
import shlex
from typing import Literal

import pytest

from mimdit import cli
from tests.cli.tiny_experiment import told


def test_an_argument_called_config_arrives(capsys):
    assert "nowhere.yaml does not exist" in told(capsys, "quickstart", "--config", "nowhere.yaml")


def name(*, unit_name: str = "px") -> None:
    """Name a unit."""
    print(unit_name)


@pytest.mark.parametrize("option", ["--unit-name=sq-m", "--unit_name=sq-m"])
def test_an_option_may_be_written_with_dashes_or_underscores(capsys, monkeypatch, option):
    monkeypatch.setattr(cli, "COMMANDS", {"name": f"{__name__}:name"})
    cli.main(["name", option])
    assert capsys.readouterr().out == "sq-m\n"


UNIT = "cm"


def weigh(
    inputs: list[str],
    output: str,
    *,
    data: list[str] | None = None,
    shares: list[float] | None = None,
    renamed: dict[str, str] | None = None,
    tile: int | Literal["auto"] = "auto",
    steer: str | None = "channel=2",
    steps: int = 1,
    overwrite: bool = False,
) -> None:
    """Print what arrives."""
    print({name: value for name, value in locals().items() if value != inspect.signature(weigh).parameters[name].default})


def in_module_terms(length: int, *, unit: str = UNIT) -> None:
    """Have a default that only the module has."""
    print(length, unit)


@pytest.mark.parametrize(
    ("words", "arrived"),
    [
        ("a b out", {"inputs": ["a", "b"]}),
        ("a b out --steps 3 --steps 4", {"inputs": ["a", "b"], "steps": 4}),
        ("--steps -3 a b out", {"inputs": ["a", "b"], "steps": -3}),
        ("-x.png -steps out", {"inputs": ["-x.png", "-steps"]}),
        ("--overwrite -- -x.png --steps out", {"inputs": ["-x.png", "--steps"], "overwrite": True}),
        ("a --overwrite=true out", {"overwrite": True}),
        ("a out --overwrite True", {"overwrite": True}),
        ("--overwrite false a out", {}),
        ("a out --no-overwrite", {}),
        ("a out --data x --data=y", {"data": ["x", "y"]}),
        ("a out --data [x,y] --shares=[0.5,1]", {"data": ["x", "y"], "shares": [0.5, 1.0]}),
        ("a out --data=[]", {"data": []}),
        ("a out --data null --shares=null", {}),
        ("a out --steer null", {"steer": None}),
        ("a out --steer haze=0", {"steer": "haze=0"}),
        ("a out --renamed k=v --renamed l=w", {"renamed": {"k": "v", "l": "w"}}),
        ("a out '--renamed={k: v}'", {"renamed": {"k": "v"}}),
        ("a out --tile 64", {"tile": 64}),
        ("a out --tile auto", {}),
    ],
)
def test_words_become_the_values_that_the_function_declares(capsys, monkeypatch, words, arrived):
    monkeypatch.setattr(cli, "COMMANDS", {"weigh": f"{__name__}:weigh"})
    cli.main(["weigh", *shlex.split(words)])
    assert ast.literal_eval(capsys.readouterr().out) == {"inputs": ["a"], "output": "out"} | arrived


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a out --stepz 3", "--stepz. Did you mean --steps?"),
        ("a out --steps x", 'unable to convert "x" into int'),
        ("a out --tile big", '--tile: unable to convert "big"'),
        ("a out --renamed k", "'k' is not of the form key=value"),
        ("a out --data [x", "'[x' cannot be read as YAML"),
        ("a out --shares [x]", 'unable to convert "x" into float'),
        ("a --steps 3 b out", "out is left over"),
        ("out", "INPUTS requires an argument"),
        ("a out --steer", "--steer requires an argument"),
    ],
)
def test_a_mistake_names_the_word_in_one_paragraph(capsys, monkeypatch, words, message):
    monkeypatch.setattr(cli, "COMMANDS", {"weigh": f"{__name__}:weigh"})
    error = told(capsys, "weigh", *words.split())
    assert message in error and error.startswith("error: ") and error.count("\n") == 1 and "`mimdit weigh --help`" in error


def with_more(verb):
    """Give a verb another option."""
    own = inspect.signature(verb)
    more = inspect.Parameter("more", inspect.Parameter.KEYWORD_ONLY, default=1, annotation=int)
    verb.__signature__ = own.replace(parameters=[*list(own.parameters.values())[:-1], more])
    return verb


@with_more
def decorated(length: int, **options: int) -> None:
    """Have options from a decorator."""
    print(length, options)


def test_a_decorated_function_has_the_options_of_its_decorator(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", {"length": f"{__name__}:decorated"})
    cli.main(["length", "3", "--more", "4"])
    assert capsys.readouterr().out == "3 {'more': 4}\n"


def test_a_default_that_only_the_module_has_is_read_from_there(capsys, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", {"length": f"{__name__}:in_module_terms"})
    cli.main(["length", "3"])
    assert capsys.readouterr().out == "3 cm\n"
