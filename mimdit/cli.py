"""The commands ``mimdit …`` and ``lightning …``: one dispatcher for Lightning's Trainer verbs and this project's own.

Nothing heavy is imported before a verb runs, so help and error messages appear at once.
"""

import inspect
import logging
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import yaml
from cyclopts import App, CycloptsError, Group, Parameter, Token, UnknownCommandError, UnknownOptionError, UnusedCliTokensError, convert

from mimdit.core import stop_signals
from mimdit.core.signature import stand_in, summary
from mimdit.core.user_errors import EXIT_CODE, user_errors_in_one_paragraph

TRAINER_VERBS = {
    "fit": "Train (with validation) as --config files describe.",
    "validate": "Score a checkpoint on the validation set.",
    "test": "Score a checkpoint on the test set.",
    "predict": "Restore the data module's predict set.",
}

COMMANDS: dict[str, str | dict[str, str]] = {
    "quickstart": "mimdit.commands.quickstart:quickstart",
    "doctor": "mimdit.commands.doctor:doctor",
    "plan": "mimdit.commands.plan:plan",
    "restore": "mimdit.commands.restore:restore",
    "identify": "mimdit.commands.identify:identify",
    "report": "mimdit.commands.report:report",
    "votes": {
        "collect": "mimdit.commands.votes:collect",
        "report": "mimdit.commands.votes:report",
    },
    "demo": "mimdit.commands.demo:demo",
    "export": "mimdit.commands.export:export",
    "checkpoint": {
        "inspect": "mimdit.commands.checkpoint:inspect",
        "consolidate": "mimdit.commands.checkpoint:consolidate",
        "export": "mimdit.commands.export:export",
        "refit": "mimdit.commands.refit:refit",
    },
    "shards": {
        "quickstart": "mimdit.commands.shards:quickstart",
        "foundir": "mimdit.commands.convert:foundir",
        "pairs": "mimdit.commands.convert:pairs",
        "finalize": "mimdit.commands.convert:finalize",
        "latents": "mimdit.commands.latents:latents",
        "join": "mimdit.commands.shards:join",
        "codecs": "mimdit.commands.shards:codecs",
        "verify": "mimdit.commands.convert:verify",
        "info": "mimdit.commands.shards:info",
    },
    "prompts": {"encode": "mimdit.commands.prompts:encode"},
    "metrics": {
        "list": "mimdit.commands.metrics:list_metrics",
        "fetch": "mimdit.commands.metrics:fetch",
        "fit-niqe": "mimdit.commands.metrics:fit_niqe",
    },
}
"""This project's own verbs: each a function, or a group of verbs. The first line of the function's docstring is its line in the help."""

ALIASES = {"shards": {"finalise": "finalize"}}  # codespell:ignore finalise
"""Former names of verbs, by group; they still work, but the help does not list them."""

_GROUPS = {
    "votes": "Compare the images of two runs blind",
    "checkpoint": "Look into checkpoints and convert them",
    "shards": "Write training data and check it",
    "prompts": "Prepare prompt embeddings",
    "metrics": "Manage the weights of metrics",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; ``args`` default to the process's arguments.

    A user's mistake ends in one paragraph on stderr and exit code 2 (`mimdit.core.user_errors`).
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # pyiqa brings it; it warns at import of an optional part that is missing
    args = list(sys.argv[1:] if args is None else args)
    with user_errors_in_one_paragraph():
        if args and args[0] in TRAINER_VERBS:
            if args[0] == "fit":
                stop_signals.hold_if_requested()  # before the imports, which take seconds
            import_module("mimdit.commands.trainer").run(args)
        else:
            _run_command(["--help", *args[1:]] if args[:1] == ["help"] else args)


def _run_command(args: list[str]) -> None:
    """Find the verb, parse the rest by its signature, call it."""
    app = _app(args)
    try:
        command, bound, _ = app.parse_args(_attach_flag_values(app, args), exit_on_error=False, print_error=False)
        _refuse_unknown_options(bound, args, app)
    except CycloptsError as error:
        print(f"error: {_message(error, args)}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    command(*bound.args, **bound.kwargs)


def _app(args: list[str]) -> App:
    """Build the command line from `TRAINER_VERBS` and `COMMANDS`: the verb that ``args`` name, and a line of help for each other one."""
    app = App(
        name="mimdit",
        help="MiM-DiT: all-in-one image restoration by a diffusion transformer that a MoE-in-MoE conditioner steers.",
        help_epilogue="`mimdit COMMAND --help` lists a command's options. `lightning` is an alias of `mimdit`. "
        "MIMDIT_TRACEBACK=1 shows an error's whole traceback.",
        help_format="plaintext",
        version=_versions,
        default_parameter=Parameter(
            allow_repeating=True,  # the last value wins, as for the Trainer's verbs
            converter=_value,
            json_dict=False,
            json_list=False,
            negative_iterable=(),
        ),
    )
    trainer, tools = Group.create_ordered("Train and score"), Group.create_ordered("Tools")
    for place, (verb, line) in enumerate(TRAINER_VERBS.items()):
        app.command(App(name=verb, help=line, group=trainer, sort_key=place))
    for place, (verb, target) in enumerate(COMMANDS.items()):
        if isinstance(target, str):
            _add(app, verb, target, chosen=args[:1] == [verb], group=tools, sort_key=place)
            continue
        group = App(name=verb, help=f"{_GROUPS.get(verb, verb)}: {', '.join(target)}.", group=tools, sort_key=place)
        for number, (name, function) in enumerate(target.items()):
            _add(group, name, function, chosen=args[:2] == [verb, name], sort_key=number)
        for former, name in ALIASES.get(verb, {}).items():
            _add(group, former, target[name], chosen=args[:2] == [verb, former], show=False)
        app.command(group)
    return app


def _add(app: App, name: str, target: str, *, chosen: bool, **options: Any) -> None:
    """Add a verb with its options if it is the ``chosen`` one: a signature can need an import that takes seconds."""
    if chosen:
        app.command(stand_in(target, _hint), name=name, **options)
    else:
        app.command(App(name=name, help=summary(target), **options))


def _hint(parameter: inspect.Parameter) -> Any:
    """Annotate a parameter for cyclopts."""
    hint = parameter.annotation
    members = (hint, *get_args(hint))
    options: dict[str, Any] = {}
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        options["allow_leading_hyphen"] = True  # a file may be called -x.png
    if NoneType in members:
        options["converter"] = _value_or_null
    if any(get_origin(member) is dict for member in members):
        options |= {"accepts_keys": False, "n_tokens": -1}
    return Annotated[hint, Parameter(**options)] if options else hint


def _value_or_null(hint: Any, tokens: Sequence[Token]) -> Any:
    return None if [token.value for token in tokens] == ["null"] else _value(hint, tokens)


def _value(hint: Any, tokens: Sequence[Token]) -> Any:
    """Convert an option's words to ``hint``.

    A list is repeated options or one word ``[a, b]``; a dict is repeated ``key=value`` or one word ``{key: value}``.
    """
    words = [token.value for token in tokens]
    if get_origin(hint) is list:
        elements = _flow(words[0], list) if len(words) == 1 and words[0].startswith("[") else words
        return [convert(get_args(hint)[0], [element]) for element in elements]
    if get_origin(hint) is dict:
        return _flow(words[0], dict) if words[0].startswith("{") else dict(_pair(word) for word in words)
    return convert(hint, [tokens[-1]])


def _flow(word: str, kind: type) -> Any:
    """Read YAML's flow notation; values stay strings."""
    try:
        value = yaml.load(word, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{word!r} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{word!r} is not a {kind.__name__}")
    return value


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word!r} is not of the form key=value")
    return key, value


def _attach_flag_values(app: App, args: list[str]) -> list[str]:
    """Join ``--dry-run false`` to ``--dry-run=false``: cyclopts takes a flag's value only behind an equals sign."""
    command = app.parse_commands(args)[1][-1].default_command
    parameters = {} if command is None else inspect.signature(command).parameters
    flags = {f"--{name}" for name, parameter in parameters.items() if parameter.annotation is bool}
    joined: list[str] = []
    for word in args:
        if word.lower() in ("true", "false") and joined and joined[-1].replace("-", "_").replace("__", "--", 1) in flags:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _refuse_unknown_options(bound: inspect.BoundArguments, args: list[str], app: App) -> None:
    """Raise UnknownOptionError for an argument that is ``--word``, unless it followed ``--``: a file name may begin with only one dash."""
    options = args[: args.index("--")] if "--" in args else args
    command = app.parse_commands(args)[1][-1]
    for value in bound.args:
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and word.startswith("--") and word in options:
                known = command.assemble_argument_collection()
                raise UnknownOptionError(token=Token(value=word, source="cli"), argument_collection=known, verbose=False)


def _message(error: CycloptsError, args: list[str]) -> str:
    """Return one paragraph for a mistake on the command line, with a pointer to the help."""
    text = " ".join(str(error).split())
    if isinstance(error, UnknownCommandError):
        if Path(sys.argv[0]).stem == "lightning" and args[0] not in COMMANDS:
            text += (
                " This environment's `lightning` is MiM-DiT's alias of `mimdit`; the command of the same name for Lightning AI's platform"
                " (login, studio, …) belongs to the package lightning-sdk: install that one in an environment of its own."
            )
        return text
    if isinstance(error, UnusedCliTokensError):
        text = f"{' '.join(error.unused_tokens or [])} is left over: name all files and folders in one row, options before or after them."
    verbs = " ".join(args[: 2 if isinstance(COMMANDS.get(args[0]), dict) else 1])
    return f"{text} (`mimdit {verbs} --help` lists the options.)"


def _versions() -> str:
    return "\n".join(f"{name} {metadata.version(name)}" for name in ("mimdit", "torch", "lightning", "diffusers", "jsonargparse"))
