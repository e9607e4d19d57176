"""The commands ``mimdit …`` and ``lightning …``: one dispatcher for Lightning's Trainer verbs and for our own.

Nothing heavy is imported before a verb is known, so that ``mimdit --help`` answers at once.
"""

import ast
import difflib
import inspect
import json
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path

from mimdit.core import stop_signals
from mimdit.core.user_errors import EXIT_CODE, user_errors_in_one_paragraph

TRAINER_VERBS = {
    "fit": "Train (with validation) what --config files describe.",
    "validate": "Score a checkpoint on the validation set.",
    "test": "Score a checkpoint on the test set.",
    "predict": "Restore what the data module's predict set holds.",
}

COMMANDS: dict[str, str | dict[str, str]] = {
    "quickstart": "mimdit.commands.quickstart:quickstart",
    "doctor": "mimdit.commands.doctor:doctor",
    "restore": "mimdit.commands.restore:restore",
    "report": "mimdit.commands.report:report",
    "demo": "mimdit.commands.demo:demo",
    "export": "mimdit.commands.export:export",
    "checkpoint": {
        "inspect": "mimdit.commands.checkpoint:inspect",
        "consolidate": "mimdit.commands.checkpoint:consolidate",
        "export": "mimdit.commands.export:export",
    },
    "shards": {
        "quickstart": "mimdit.commands.shards:quickstart",
        "foundir": "mimdit.commands.convert:foundir",
        "pairs": "mimdit.commands.convert:pairs",
        "finalise": "mimdit.commands.convert:finalise",
        "latents": "mimdit.commands.latents:latents",
        "verify": "mimdit.commands.convert:verify",
        "info": "mimdit.commands.shards:info",
    },
    "prompts": {"encode": "mimdit.commands.prompts:encode"},
    "metrics": {"list": "mimdit.commands.metrics:list_metrics", "fetch": "mimdit.commands.metrics:fetch"},
}
"""Verbs of our own: a function, or a group of verbs. The first line of the function's docstring is its line in the help."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; ``args`` are those of the process by default.

    A user's mistake ends in one paragraph on stderr and exit code 2 (`mimdit.core.user_errors`).
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # pyiqa brings it; it warns at import of an optional part that is missing
    args = list(sys.argv[1:] if args is None else args)
    with user_errors_in_one_paragraph():
        if not args or args[0] in ("-h", "--help", "help"):
            print(_help())
        elif args[0] == "--version":
            print(_versions())
        elif args[0] in TRAINER_VERBS:
            if args[0] == "fit":
                stop_signals.hold_if_told()  # before the imports, which take seconds
            import_module("mimdit.commands.trainer").run(args)
        else:
            _run_command(COMMANDS, args, prog="mimdit")


def _run_command(commands: dict[str, str | dict[str, str]], args: list[str], prog: str) -> None:
    """Find the verb in ``commands``, group by group, and call its function with what jsonargparse makes of the rest."""
    verb, rest = args[0], args[1:]
    if verb not in commands:
        _fail_unknown(verb, commands, prog)
    target = commands[verb]
    prog = f"{prog} {verb}"
    if isinstance(target, str):
        from jsonargparse import auto_cli, capture_parser

        function = _load(target)
        rest = _repeated_are_lists(function, _bare_flags_are_true(function, [_with_underscores(arg) for arg in rest]))
        parser = capture_parser(lambda: auto_cli(function, prog=prog))
        given = parser.parse_args(_gather_inputs(function, rest)).as_dict()
        # Not by auto_cli: it drops an argument that is called config without a word.
        function(**{name: given[name] for name in inspect.signature(function).parameters})
    elif not rest or rest[0] in ("-h", "--help"):
        print(f"usage: {prog} <command> [options]\n\n" + "\n".join(_listing(target)))
    else:
        _run_command(target, rest, prog)


def _load(target: str) -> object:
    module, function = target.split(":")
    return getattr(import_module(module), function)


def _with_underscores(arg: str) -> str:
    """``--train-images=3`` as ``--train_images=3``: jsonargparse names options as Python does, fingers often do not."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _bare_flags_are_true(function: Callable[..., object], args: list[str]) -> list[str]:
    """``--dry_run`` as ``--dry_run=true`` where no value follows: jsonargparse wants one for a bool, fingers often leave it out."""
    flags = {f"--{name}" for name, parameter in inspect.signature(function).parameters.items() if parameter.annotation is bool}
    followers = [*args[1:], ""]
    return [
        f"{arg}=true" if arg in flags and follower.lower() not in ("true", "false", "yes", "no") else arg
        for arg, follower in zip(args, followers)
    ]


def _repeated_are_lists(function: Callable[..., object], args: list[str]) -> list[str]:
    """``--data a --data b`` as ``--data=["a", "b"]`` where an option is a list of words, as ``--config`` of the Trainer's verbs is."""
    names = {f"--{name}" for name, parameter in inspect.signature(function).parameters.items() if parameter.annotation == list[str] | None}
    rest, given, words = [], {}, iter(args)
    for arg in words:
        name, equals, value = arg.partition("=")
        value = value if equals or name not in names else next(words, "")
        if name not in names or value in ("", "null") or value.startswith("["):
            rest += [arg] if equals or name not in names or not value else [arg, value]
        else:
            given.setdefault(name, []).append(value)
    return [*rest, *(f"{name}={json.dumps(values)}" for name, values in given.items())]


def _gather_inputs(function: Callable[..., object], args: list[str]) -> list[str]:
    """``a b out`` as ``["a", "b"] out`` where a function's first argument is a list: jsonargparse takes one of those as one word.

    A list that may be left out is alone: ``a b`` is ``--names=["a", "b"]``. Otherwise the last word is a second argument's, where the
    function must have one.
    """
    first, *others = [*inspect.signature(function).parameters.values()] or [None]
    if first is None or first.annotation not in (list[str], list[str] | None):
        return args
    words, options, wants_value = [], [], False
    for arg in args:
        is_option = arg.startswith("-") and not wants_value
        (options if is_option or wants_value else words).append(arg)
        wants_value = is_option and "=" not in arg and arg not in ("-h", "--help")
    if first.annotation != list[str]:
        return [*options, *([f"--{first.name}={json.dumps(words)}"] if words else [])]
    last = 1 if any(other.default is inspect.Parameter.empty for other in others) else 0
    gathered, rest = words[: len(words) - last], words[len(words) - last :]
    return [*options, *([json.dumps(gathered)] if gathered else []), *rest]


def _fail_unknown(verb: str, commands: dict[str, str | dict[str, str]], prog: str) -> None:
    known = [*(TRAINER_VERBS if commands is COMMANDS else ()), *commands]
    near = difflib.get_close_matches(verb, known, n=1)
    advice = f" Did you mean {near[0]!r}?" if near else ""
    if commands is COMMANDS and Path(sys.argv[0]).stem == "lightning":
        advice += (
            " This environment's `lightning` is MiM-DiT's alias of `mimdit`; the command of the same name for Lightning AI's platform"
            " (login, studio, …) belongs to the package lightning-sdk: install that one in an environment of its own."
        )
    print(f"error: {prog} has no command {verb!r}.{advice} Commands: {', '.join(known)}.", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _help() -> str:
    lines = [
        "usage: mimdit <command> [options]        mimdit <command> --help tells a command's options",
        "",
        "MiM-DiT: all-in-one image restoration by a diffusion transformer that a MoE-in-MoE conditioner steers.",
        "",
        "Train and score, for example mimdit fit --config configs/embedded/pretrain.yaml --trainer.max_steps 100:",
        *(f"  {verb:<20} {summary}" for verb, summary in TRAINER_VERBS.items()),
        "",
        "Tools:",
        *_listing(COMMANDS),
        "",
        "`lightning` is an alias of `mimdit`. --version tells versions; MIMDIT_TRACEBACK=1 shows an error's whole traceback.",
    ]
    return "\n".join(lines)


def _listing(commands: dict[str, str | dict[str, str]], prefix: str = "") -> list[str]:
    lines = []
    for verb, target in commands.items():
        if isinstance(target, str):
            lines.append(f"  {prefix + verb:<20} {_summary(target)}")
        else:
            lines += _listing(target, prefix=f"{prefix}{verb} ")
    return lines


def _summary(target: str) -> str:
    """First line of the docstring of ``module:function``, read from the source: importing every command would take seconds."""
    module, function = target.split(":")
    source = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    found = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").partition("\n")[0]


def _versions() -> str:
    return "\n".join(f"{name} {metadata.version(name)}" for name in ("mimdit", "torch", "lightning", "diffusers", "jsonargparse"))
