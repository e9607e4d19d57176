"""The generated reference: every verb, and every class and key that the configs in the repository use."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest
import yaml

from mimdit import cli

REPOSITORY = Path(__file__).parents[2]
OURS = ("mimdit.", "datamodules.", "callbacks.")


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("generated", REPOSITORY / "docs/hooks/generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def packages():
    return {name: griffe.load(name, search_paths=[REPOSITORY]) for name in ("mimdit", "datamodules", "callbacks")}


def used(node: object) -> Iterator[tuple[str, set[str]]]:
    """Yield each class of ours that a config names, with its keys."""
    if isinstance(node, dict):
        if str(node.get("class_path", "")).startswith(OURS):
            yield node["class_path"].rpartition(".")[2], set(node.get("init_args", {}))
        for value in node.values():
            yield from used(value)
    elif isinstance(node, list):
        for value in node:
            yield from used(value)


def test_every_class_and_key_of_the_configs_has_a_row(hook, packages):
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", hook.keys_page(packages), re.MULTILINE | re.DOTALL))
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "configs").rglob("*.yaml")]
    found = [pair for config in configs for pair in used(config)]
    assert len(found) > 50
    inherited = {"FoundIRDataModule": "RestorationDataModule", **dict.fromkeys(("Shards", "FoundIR", "PairFolders"), "TestSet")}
    for name, keys in found:
        rows = set(re.findall(r"^\| `(\w+)` \|", sections[name] + sections.get(inherited.get(name, ""), ""), re.MULTILINE))
        assert keys <= rows, name


def test_every_verb_has_a_section_with_all_options_described(hook, packages):
    page = hook.cli_page(packages)
    for verb, target in cli.COMMANDS.items():
        for name in [verb] if isinstance(target, str) else [f"{verb} {each}" for each in target]:
            assert f"\n### mimdit {name}\n" in page
    assert not re.findall(r"^\| `-.*\|  \|$", page, re.MULTILINE)
    assert all(f"`mimdit {verb}`" in page for verb in cli.TRAINER_VERBS)


def test_every_config_file_is_listed(hook):
    page = hook.configs_page()
    assert all(f"## {path.relative_to(REPOSITORY)}\n" in page for path in (REPOSITORY / "configs").rglob("*.yaml"))
