"""The command line: meaning of configs, precedence of values, messages for mistakes."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy

from mimdit import cli
from mimdit.commands import trainer as trainer_verbs
from mimdit.core import signature, user_errors

CONFIGS = Path(__file__).parent.parent / "configs"


class Head(torch.nn.Module):
    """A part nested in the model, as the backbone is in the restorer."""

    def __init__(self, width: int = 1, bias: bool = True) -> None:
        super().__init__()
        if width > 8:
            raise ValueError(f"width {width} is above 8,\n   take a smaller one")
        self.linear = torch.nn.Linear(2, width, bias=bias)


class TinyModel(L.LightningModule):
    """Learns nothing in one step."""

    def __init__(self, head: Head, ema: float = 0.999, rows: int = 0, optimizer: OptimizerCallable = torch.optim.SGD) -> None:
        super().__init__()
        self.head, self.ema, self.rows, self.make_optimizer = head, ema, rows, optimizer

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.head.linear(batch).square().mean()

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("ema", self.ema)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.parameters())


class Rows(torch.utils.data.Dataset):
    """Four rows of ones."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(2)


class TinyData(L.LightningDataModule):
    """Rows of ones."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(Rows(), batch_size=self.batch_size)

    test_dataloader = train_dataloader


QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu", "max_steps": 1}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder, under the program's own name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mimdit"])
    monkeypatch.delenv("MIMDIT_TRACEBACK", raising=False)


@pytest.fixture
def config(tmp_path) -> Path:
    """A whole config of the tiny experiment."""
    head = {"class_path": f"{__name__}.Head", "init_args": {"width": 2}}
    content = {
        "trainer": QUIET | {"default_root_dir": str(tmp_path)},
        "model": {"class_path": f"{__name__}.TinyModel", "init_args": {"head": head}},
        "data": {"class_path": f"{__name__}.TinyData", "init_args": {"batch_size": 4}},
    }
    return written(tmp_path / "tiny.yaml", content)


def test_an_argument_called_config_arrives(capsys):
    assert "nowhere.yaml does not exist" in told(capsys, "quickstart", "--config", "nowhere.yaml")


def parse(verb: str, *options: object):
    """The verb's part of the config, with nothing built and nothing run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_verbs.TrainerCLI, "instantiate_classes", lambda self: None)
        patch.setattr(trainer_verbs.TrainerCLI, "_run_subcommand", lambda self, verb: None)
        return trainer_verbs.run([verb, *map(str, options)]).config[verb]


def written(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def told(capsys, *args: object) -> str:
    """What stderr says when ``mimdit args`` ends in a user's mistake."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(arg) for arg in args])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_the_later_config_wins_and_the_command_line_wins_over_both(config, tmp_path):
    model = {"init_args": {"ema": 0.9, "head": {"init_args": {"bias": False}}}}
    later = written(tmp_path / "later.yaml", {"model": model, "trainer": {"max_steps": 7}})
    parsed = parse("fit", "--config", config, "--config", later, "--trainer.max_steps", 9)
    assert parsed.trainer.max_steps == 9
    assert parsed.model.init_args.ema == 0.9
    assert parsed.model.init_args.head.init_args.as_dict() == {"width": 2, "bias": False}


def test_interpolation_sees_other_files_and_the_command_line(config, tmp_path):
    other = written(tmp_path / "other.yaml", {"model": {"init_args": {"rows": "${data.init_args.batch_size}"}}})
    assert parse("fit", "--config", config, "--config", other).model.init_args.rows == 4
    assert parse("fit", "--config", config, "--config", other, "--data.batch_size", 6).model.init_args.rows == 6


def test_a_config_overrides_its_bases_and_appends_to_their_lists(config, tmp_path):
    (tmp_path / "parts").mkdir()
    monitor, second = ({"class_path": f"lightning.pytorch.callbacks.{name}"} for name in ("LearningRateMonitor", "DeviceStatsMonitor"))
    first = {"trainer": {"max_steps": 3, "log_every_n_steps": 3, "callbacks": [monitor]}}
    written(tmp_path / "parts" / "first.yaml", {"config": ["../tiny.yaml"]} | first)
    written(tmp_path / "parts" / "second.yaml", {"trainer": {"max_steps": 4}, "model": {"init_args": {"ema": "${trainer.max_steps}"}}})
    whole = {"config": ["parts/first.yaml", "parts/second.yaml"], "trainer": {"max_steps": 5, "callbacks+": [second]}}
    parsed = parse("fit", "--config", written(tmp_path / "whole.yaml", whole))
    assert (parsed.trainer.max_steps, parsed.trainer.log_every_n_steps, parsed.trainer.enable_progress_bar) == (5, 3, False)
    assert parsed.model.init_args.ema == 5.0 and parsed.data.init_args.batch_size == 4
    assert [callback.class_path for callback in parsed.trainer.callbacks] == [monitor["class_path"], second["class_path"]]
    assert parse("fit", f"--config={tmp_path / 'whole.yaml'}").trainer == parsed.trainer


def test_a_base_that_is_missing_or_names_itself_is_told(capsys, config, tmp_path):
    lonely = written(tmp_path / "lonely.yaml", {"config": ["gone.yaml"]})
    assert "lonely.yaml names the config gone.yaml" in told(capsys, "fit", "--config", config, "--config", lonely)
    written(tmp_path / "a.yaml", {"config": ["b.yaml"]})
    written(tmp_path / "b.yaml", {"config": ["a.yaml"]})
    assert "names the config a.yaml, which names" in told(capsys, "fit", "--config", tmp_path / "a.yaml")
    single = written(tmp_path / "single.yaml", {"config": "tiny.yaml"})
    assert "write config: [tiny.yaml]" in told(capsys, "fit", "--config", single)


@pytest.mark.parametrize(
    "option",
    ["--trainer.max_stepz=3", "--data.init_args.batch_sise=3", "--model.init_args.emma=0.5", "--model.init_args.head.init_args.widht=3"],
)
def test_a_typo_on_the_command_line_is_named(capsys, config, option):
    key = option.removeprefix("--").partition("=")[0].rpartition(".")[2]
    assert key in told(capsys, "fit", "--config", config, option)


def test_a_typo_deep_in_a_config_is_named(capsys, config, tmp_path):
    typo = written(tmp_path / "typo.yaml", {"model": {"init_args": {"head": {"init_args": {"widht": 3}}}}})
    message = told(capsys, "fit", "--config", config, "--config", typo)
    assert "widht" in message and "Traceback" not in message


def test_a_missing_config_file_is_named(capsys):
    assert "nowhere.yaml" in told(capsys, "fit", "--config", "nowhere.yaml")


def test_a_value_our_code_refuses_is_told_in_one_paragraph(capsys, monkeypatch, config):
    monkeypatch.setattr(user_errors, "_OURS", (__file__,))
    message = told(capsys, "fit", "--config", config, "--model.head.width", 9)
    assert "error: width 9 is above 8, take a smaller one\n" in message
    assert "Traceback" not in message


def test_the_whole_traceback_on_demand(config, monkeypatch):
    monkeypatch.setenv("MIMDIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="width 9"):
        cli.main(["fit", "--config", str(config), "--model.head.width", "9"])


@pytest.fixture
def checkpoint(config, tmp_path) -> Path:
    """A checkpoint of the tiny model, trained with ema 0.999 and a head of width 2."""
    verb = trainer_verbs.run(["fit", "--config", str(config)])
    verb.trainer.save_checkpoint(tmp_path / "tiny.ckpt")
    return tmp_path / "tiny.ckpt"


def test_the_command_line_beats_the_checkpoint(config, checkpoint):
    for verb in ("fit", "test"):
        parsed = parse(verb, "--config", config, "--model.ema", 0.5, "--ckpt_path", checkpoint)
        assert parsed.model.init_args.ema == 0.5


def test_a_config_beats_the_checkpoint(config, checkpoint, tmp_path):
    changed = written(tmp_path / "changed.yaml", {"model": {"init_args": {"ema": 0.25}}})
    assert parse("validate", "--config", config, f"--ckpt_path={checkpoint}", "--config", changed).model.init_args.ema == 0.25


def test_the_checkpoint_fills_what_the_user_left_unset(checkpoint):
    data = ["--data", f"{__name__}.TinyData", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    verb = trainer_verbs.run(["test", *data, "--model.ema", "0.5", "--ckpt_path", str(checkpoint)])
    assert verb.model.head.linear.out_features == 2
    assert verb.trainer.callback_metrics["ema"] == 0.5


def test_a_checkpoint_builds_its_model_again(checkpoint):
    model = TinyModel.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    assert model.head.linear.out_features == 2
    assert model.make_optimizer(model.parameters()).defaults["lr"] == 1e-3


def test_a_missing_checkpoint_is_told_before_anything_is_built(capsys, config):
    assert "gone.ckpt" in told(capsys, "test", "--config", config, "--ckpt_path", "gone.ckpt")


def test_a_second_run_in_the_same_folder_overwrites_the_saved_config(config, tmp_path):
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "run", "version": ""}}
    logged = written(tmp_path / "logged.yaml", {"trainer": {"logger": logger}})
    for steps in (1, 2):
        cli.main(["fit", "--config", str(config), "--config", str(logged), "--trainer.max_steps", str(steps)])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]["max_steps"] == 2


def test_a_run_over_gloo_leaves_its_process_group(config):
    run = trainer_verbs.run(["fit", "--config", str(config), "--trainer.strategy=ddp", "--trainer.devices=1"])
    assert run.trainer.global_step == 1 and isinstance(run.trainer.strategy, DDPStrategy)
    assert not torch.distributed.is_initialized()


def test_a_printed_config_runs_as_it_was_printed(capsys, config, tmp_path):
    with pytest.raises(SystemExit):
        parse("fit", "--config", config, "--model.ema", 0.75, "--print_config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert parse("fit", "--config", printed).model == parse("fit", "--config", config, "--model.ema", 0.75).model


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


def shown_without_torch(*args: str) -> str:
    """Output of ``mimdit args`` in a fresh interpreter, which must not import torch."""
    code = f"import sys; from mimdit.cli import main; main({list(args)}); sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONFIGS.parent).stdout


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


@pytest.mark.parametrize("option", ["--unit-name=sq-m", "--unit_name=sq-m"])
def test_an_option_may_be_written_with_dashes_or_underscores(capsys, monkeypatch, option):
    monkeypatch.setattr(cli, "COMMANDS", {"area": f"{__name__}:area"})
    cli.main(["area", "3", option])
    assert capsys.readouterr().out == "3 sq-m\n"


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


@pytest.mark.parametrize("name", ["DiTBackbone", "MoEConditioner", "Restorer", "RoutingBalance"])
def test_the_package_exports_its_modules(name):
    assert issubclass(getattr(import_module("mimdit"), name), L.LightningModule)
