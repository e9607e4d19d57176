"""MkDocs hook: pages that are made from the code and from files outside docs/, at every build.

Classes are read by griffe without importing them; the verbs' functions are imported, as their signatures may be made at import.
"""

import ast
import inspect
import json
import posixpath
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

ROOMS = {
    "backbone": ("mimdit.backbone", "The diffusion transformer, its codec, prompts and adapters."),
    "conditioner": ("mimdit.conditioner", "The MoE-in-MoE conditioner and its experts."),
    "routing": ("mimdit.routing", "Routers, the routing record, balance losses, utilization."),
    "restorer": ("mimdit.restorer", "Training and inference: the experiment as one LightningModule."),
    "training": ("mimdit.training", "Moving average, optimization, FLOPs."),
    "distributed": ("mimdit.distributed", "Strategies, checkpoints, preemption."),
    "evaluation": ("mimdit.evaluation", "Metrics, results, tables."),
    "diagnosis": ("mimdit.diagnosis", "Checks of a node and between nodes."),
    "core": ("mimdit.core", "The ground floor: batches, files, errors, random numbers."),
    "datamodules": ("datamodules", "Data modules, shards, the stream, degradations, test sets."),
    "callbacks": ("callbacks", "Callbacks that watch a run."),
}
"""Pages of the API reference: package and summary."""

KEYS = {
    "Model": [
        "mimdit.restorer.restorer.Restorer",
        "mimdit.backbone.dit.DiTBackbone",
        "mimdit.backbone.lora.LoRA",
        "mimdit.backbone.inner_experts.InnerExperts",
        "mimdit.backbone.codec.PixelCodec",
        "mimdit.backbone.codec.VAECodec",
        "mimdit.conditioner.moe_conditioner.MoEConditioner",
        "mimdit.routing.balance.RoutingBalance",
        "mimdit.flow.FlowMatching",
        "mimdit.training.optimization.*",
    ],
    "Data": ["datamodules.restoration.*", "datamodules.foundir.*", "datamodules.test_sets.data_module.*"],
    "Test sets": ["datamodules.test_sets.__all__"],
    "Callbacks": ["callbacks.__all__"],
    "Strategies": ["mimdit.distributed.fsdp2.FSDP2Strategy"],
}
"""Classes whose arguments are config keys. ``.*`` is every public class of a module, ``.__all__`` every public name of a package."""

ON_SITE = {
    "docs/start/notebook.ipynb": "start/restore_explain_steer.md",
    "slurm/README.md": "guides/slurm.md",
    "benchmarks/RESULTS.md": "results/RESULTS.md",
    "benchmarks/scaling.md": "results/scaling.md",
    "benchmarks/identification.md": "results/identification.md",
}
"""Files of the repository and the pages that show them: links in docs/ name the file, so that they work without the site too."""

NOT_KEYS = ("Benchmark", "BenchmarkDataModule", "Contents", "Entry")
"""Former names, and records that no config names."""

TRAINER_OPTIONS = """
| option | meaning |
|---|---|
| `--config FILE` | YAML file; repeat it, later files win over earlier ones |
| `--print_config` | print the whole config and stop |
| `--ckpt_path PATH` | checkpoint: a file, a sharded folder, `last` (the newest complete one, or the beginning) or `best` |
| `--trainer.KEY VALUE` | any argument of Lightning's `Trainer` |
| `--model.init_args.KEY VALUE`, `--data.init_args.KEY VALUE` | any argument of model and data module, see [config keys](config_keys.md) |
| `--model.help CLASS`, `--data.help CLASS` | the arguments of a class, such as `mimdit.MoEConditioner` |

For `fit` the configs describe the model. For `validate`, `test` and `predict` the checkpoint's own hyperparameters come first, and configs
and options win over them.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # this checkout, not another that is installed
    packages = {name: griffe.load(name, search_paths=[ROOT]) for name in ("mimdit", "datamodules", "callbacks")}
    pages = {
        "reference/cli.md": cli_page(packages),
        "reference/configs.md": configs_page(),
        "reference/config_keys.md": keys_page(packages),
        "reference/api/mimdit.md": public_page(packages),
    }
    pages |= {page: (notebook if path.endswith(".ipynb") else repository_file)(path) for path, page in ON_SITE.items()}
    pages |= {f"reference/api/{name}.md": room_page(packages, *room) for name, room in ROOMS.items()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with links to files of `ON_SITE`, and paths of built reference pages, turned into links to the site's pages."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(text: str, target: str) -> str:
        return f"[{text}]({posixpath.relpath(target, folder or '.')})"

    def on_site(found: re.Match[str]) -> str:
        path, mark, anchor = found[2].partition("#")
        shown = ON_SITE.get(posixpath.normpath(posixpath.join("docs", folder, path)))
        return link(found[1], shown + mark + anchor) if shown else found[0]

    markdown = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", on_site, markdown)
    return re.sub(r"`build/docs/(reference/[\w/]+)\.html`", lambda found: link(found[1], f"{found[1]}.md"), markdown)


def repository_file(path: str) -> str:
    """Return a file's text; links to files that the site does not hold become code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|scaling\.md)([^)]+)\)", lambda link: f"`{link[1].strip('`')}`", text)


def notebook(path: str) -> str:
    """Return an executed notebook as Markdown, its images inside."""
    parts = []
    for cell in json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            pictures = {kind: "".join(lines).replace("\n", "") for kind, lines in shown.items() if kind.startswith("image/")}
            if pictures:
                kind = min(pictures, key=lambda kind: len(pictures[kind]))
                parts.append(f'<img alt="Output of the cell" src="data:{kind};base64,{pictures[kind]}">')
            elif output.get("name") != "stderr" and (text := "".join(output.get("text", shown.get("text/plain", []))).rstrip()):
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)


def cli_page(packages: dict[str, griffe.Module]) -> str:
    """Return the page of every verb, from `mimdit.cli` and the signatures and docstrings of the functions."""
    trainer, commands = (_literal(packages["mimdit"]["cli"][name]) for name in ("TRAINER_VERBS", "COMMANDS"))
    lines = [
        "# Command line\n",
        "Generated from the code. `mimdit VERB --help` prints the same; `lightning` and `python -m mimdit` are the same program.",
        "\nAn option may be written with `-` or `_`. A user's mistake ends in one paragraph and exit code 2;",
        "`MIMDIT_TRACEBACK=1` shows the whole traceback.\n",
        "## Train and score\n",
        *(f"- `mimdit {verb}`: {summary}" for verb, summary in trainer.items()),
        TRAINER_OPTIONS,
        "## Tools\n",
    ]
    for verb, target in _flat(commands):
        lines += _verb(verb, target)
    return "\n".join(lines)


def _flat(commands: dict, prefix: str = "mimdit") -> Iterator[tuple[str, str]]:
    for verb, target in commands.items():
        if isinstance(target, str):
            yield f"{prefix} {verb}", target
        else:
            yield from _flat(target, f"{prefix} {verb}")


def _verb(verb: str, target: str) -> list[str]:
    """Return the section of one verb: usage, description, options. The function is imported: a decorator may have made its signature."""
    module, name = target.split(":")
    function = getattr(import_module(module), name)
    summary, described = _docstring(griffe.Docstring(inspect.getdoc(function) or ""))
    empty, positional, options = inspect.Parameter.empty, [], []
    for parameter in inspect.signature(function).parameters.values():
        named = parameter.kind is inspect.Parameter.KEYWORD_ONLY or parameter.default is not empty
        (options if named else positional).append(parameter)
    rows = [
        *((f"`{parameter.name.upper()}`", parameter.annotation, None, parameter.name) for parameter in positional),
        *(
            (f"`--{option.name}`", option.annotation, None if option.default is empty else repr(option.default), option.name)
            for option in options
        ),
    ]
    words = [parameter.name.upper() + ("..." if "list" in _type(parameter.annotation) else "") for parameter in positional]
    required = [f"--{option.name} VALUE" for option in options if option.default is empty]
    usage = " ".join([verb, *words, *required, "[options]" if len(options) > len(required) else ""]).strip()
    return [f"### {verb}\n", f"```bash\n{usage}\n```\n", f"{summary}\n", *_table("option", rows, described), ""]


def _type(annotation: object) -> str:
    """Return an annotation as a signature shows it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation).replace("typing.", "")


def configs_page() -> str:
    """Return the page of every file in configs/, with its leading comment."""
    lines = ["# Config files\n", "Generated from `configs/`. Files compose: each `--config` wins over those before it.\n"]
    for path in sorted((ROOT / "configs").rglob("*.yaml"), key=lambda path: (len(path.relative_to(ROOT).parts), path)):
        head = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))[0]
        comment = "\n".join(line.removeprefix("#").removeprefix(" ") for line in head.splitlines())
        lines += [f"## {path.relative_to(ROOT)}\n", f"```text\n{comment}\n```\n" if comment else ""]
    return "\n".join(lines)


def keys_page(packages: dict[str, griffe.Module]) -> str:
    """Return the page of every class that a config names, with its arguments."""
    lines = [
        "# Config keys\n",
        "Generated from the code: every class that a config names by `class_path`, and its `init_args`. Arguments of Lightning's own",
        "classes are in Lightning's documentation. Short names (`mimdit.Restorer`, `callbacks.Scores`) work as well as long ones.\n",
    ]
    for title, patterns in KEYS.items():
        lines.append(f"## {title}\n")
        classes = {found.path: found for pattern in patterns for found in _classes(packages, pattern)}
        for found in classes.values():
            initializer = found.members.get("__init__")
            parameters = [parameter for parameter in (initializer.parameters if initializer else []) if parameter.name != "self"]
            summary, described = _docstring(found.docstring)
            rows = [(f"`{each.name.lstrip('*')}`", each.annotation, each.default, each.name) for each in parameters]
            lines += [f"### {found.name}\n", f"`{found.path}`\n", f"{summary}\n", *_table("key", rows, described), ""]
    return "\n".join(lines)


def _classes(packages: dict[str, griffe.Module], pattern: str) -> list[griffe.Class]:
    """Return the classes that an entry of `KEYS` names; none where its module is not there."""
    home, _, name = pattern.rpartition(".")
    try:
        module = _find(packages, home)
        if name not in ("*", "__all__"):
            return [_find(packages, pattern)]
    except KeyError:
        return []
    if name == "__all__":
        found = [_resolved(packages, module, public) for public in _literal(module["__all__"])]
    else:
        found = [member for member in module.members.values() if not member.is_alias and not member.name.startswith("_")]
    return [member for member in found if member.is_class and not member.name.endswith("Error") and member.name not in NOT_KEYS]


def public_page(packages: dict[str, griffe.Module]) -> str:
    """Return the page of the public names of `mimdit`, and of its flow."""
    homes = _literal(packages["mimdit"]["_HOMES"])
    rows = []
    for name, home in homes.items():
        summary = _docstring(_find(packages, f"{home}.{name}").docstring)[0].partition("\n")[0]
        rows.append(f"| [`mimdit.{name}`][{home}.{name}] | {_cell(summary)} |")
    table = "\n".join(["| name | is |", "|---|---|", *rows])
    summary = "The public names, and flow matching. The modules of each room have pages of their own."
    return "\n\n".join(["# mimdit", summary, table, "::: mimdit.flow"])


def room_page(packages: dict[str, griffe.Module], package: str, summary: str) -> str:
    """Return the page of all modules of a package."""
    root = _find(packages, package)
    modules = [module for module in _modules(root) if _is_worth_a_section(module)]
    return "\n\n".join([f"# {package}\n", summary, *(f"::: {module.path}" for module in modules)])


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    for name in sorted(module.modules):
        member = module.modules[name]
        if not member.is_alias:
            yield member
            yield from _modules(member)


def _is_worth_a_section(module: griffe.Module) -> bool:
    own = [member for name, member in module.members.items() if not name.startswith("_") and not member.is_alias]
    return any(member.is_class or member.is_function for member in own)


def _find(packages: dict[str, griffe.Module], path: str) -> griffe.Object:
    """Return the object of a dotted path; KeyError where there is none."""
    package, _, rest = path.partition(".")
    return packages[package][rest] if rest else packages[package]


def _resolved(packages: dict[str, griffe.Module], module: griffe.Module, name: str) -> griffe.Object:
    member = module.members[name]
    return _find(packages, member.target_path) if member.is_alias else member


def _literal(attribute: griffe.Attribute) -> object:
    return ast.literal_eval(str(attribute.value))


def _docstring(docstring: griffe.Docstring | None) -> tuple[str, dict[str, str]]:
    """Return a docstring's text and its description of each parameter."""
    if docstring is None:
        return "", {}
    text, described = [], {}
    for section in docstring.parse("google", warnings=False):
        if section.kind is griffe.DocstringSectionKind.text:
            text.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.parameters:
            described |= {parameter.name.lstrip("*"): parameter.description for parameter in section.value}
    return "\n\n".join(text), described


def _table(first: str, rows: list[tuple[str, object, object, str]], described: dict[str, str]) -> list[str]:
    """Return a Markdown table of parameters: label, annotation, default (None for none), name."""
    if not rows:
        return []
    lines = [f"| {first} | type | default | meaning |", "|---|---|---|---|"]
    for label, annotation, default, name in rows:
        shown = "" if default is None else f"`{_cell(str(default))}`"
        kind = "" if annotation is None else f"`{_cell(_type(str(annotation) if isinstance(annotation, griffe.Expr) else annotation))}`"
        lines.append(f"| {label} | {kind} | {shown} | {_cell(described.get(name.lstrip('*'), ''))} |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")
