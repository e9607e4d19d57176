"""The commands in README.md and docs/: all name what exists, and the README's cheap ones run."""

import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mimdit import cli
from mimdit.core.signature import load
from tests.datamodules.made_sources import made_pairs, write_group_folders

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
TINY = {
    "fit": [
        *("--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.batch_size=2", "--data.crop=64"),
        "--model.init_args.scheduler.init_args.warmup_steps=1",
    ],
    "test": [],
    "restore": ["--tile=64"],
}
"""Options that make a run of seconds."""
CPU = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--data.num_workers=0"]


def commands(page: Path) -> list[list[str]]:
    """Return the words of every command of ours in a page's bash blocks, without the program's name."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line.replace("…", ""), comments=True) for line in lines if re.match(r"(\.venv/bin/|srun )?mimdit ", line)]
    return [words[1 + words[0].startswith("srun") :] for words in found]


def problems(words: list[str]) -> list[str]:
    """Return what a command names that does not exist: a verb, an option, a config file."""
    configs = [word for word in words if re.fullmatch(r"configs/[\w/]+\.yaml", word)]
    missing = [f"no file {config}" for config in configs if not (REPOSITORY / config).is_file()]
    if words[0] in cli.TRAINER_VERBS or words[0].startswith("--"):
        return missing
    target, rest = cli.COMMANDS.get(words[0]), words[1:]
    if isinstance(target, dict):
        target, rest = target.get(rest[0]), rest[1:]
    if target is None:
        return [*missing, f"no command {' '.join(words[:2])}"]
    known = set(inspect.signature(load(target)).parameters)
    options = [word[2:].partition("=")[0].replace("-", "_") for word in rest if word.startswith("--")]
    return missing + [f"no option --{option}" for option in options if option not in known]


def test_every_page_names_only_what_exists():
    found = {page: [(words, problem) for words in commands(page) for problem in problems(words)] for page in PAGES}
    assert {str(page): broken for page, broken in found.items() if broken} == {}
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize("words", [["restoer", "a", "b"], ["restore", "a", "b", "--stepz=2"], ["fit", "--config", "configs/absent.yaml"]])
def test_what_does_not_exist_is_found(words):
    assert problems(words)


def test_the_readme_is_short_and_its_first_screen_answers():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    first = "\n".join(lines[:60])
    for answer in ("docs/restored.png", "**Real photographs", "pip install", "mimdit restore photos/", "mimdit shards pairs", "mimdit fit"):
        assert answer in first


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with configs, weights, own pairs and a photograph."""
    for name in ("configs", "mimdit"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for split in ("train", "test"):
        write_group_folders(tmp_path / "own" / split, made_pairs(("08Haze",), count=2, side=80))
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_restore_command_and_python_run(place):
    (restore,) = [words for words in commands(README) if words[0] == "restore" and "--checkpoint" not in words]
    cli.main(restore)
    assert Image.open(place / "restored/a.png").size == (64, 48)
    (python,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    image = Image.open(place / "photos/a.png")
    namespace = {"image": image, "images": torch.full((1, 3, 48, 64), 0.35)}
    imports, pipeline, restorer = python.strip().splitlines()
    exec(imports, namespace)
    assert eval(pipeline.partition("#")[0], namespace).size == (64, 48)
    assert eval(restorer.partition("#")[0], namespace).shape == (1, 3, 48, 64)


def test_the_readmes_four_commands_train_on_own_pairs(place):
    marks = {"own/train/08Haze/LQ", "configs/finetune.yaml", "--checkpoint"}
    four = [words for words in commands(README) if marks & {*words}]
    assert [words[0] for words in four] == ["shards", "fit", "test", "restore"]
    for words in four:
        cli.main([*words, *TINY.get(words[0], []), *(CPU if words[0] in cli.TRAINER_VERBS else [])])
    assert (place / "runs/finetune/results.json").is_file()
    assert Image.open(place / "restored/a.png").size == (64, 48)
