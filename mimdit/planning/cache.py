"""Cache of plans, keyed by everything they follow from; nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mimdit.core.files import replace_when_whole

READ = ("config.json", "index.json", "inner_experts.safetensors")
"""Files that a plan reads in a folder that the config names, or in a sub-folder: sizes of models, the index of shards, experts."""

_ROOT = Path(__file__).resolve().parents[2]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def cache_folder() -> Path:
    """Return the folder of the plans: ``mimdit/plans`` in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimdit" / "plans"


def cache_key(arguments: Mapping[str, Any], words: Iterable[str]) -> str:
    """Return the key of a plan.

    Args:
        arguments: Arguments of the command.
        words: Words of the command line that may name files, such as configs.

    Returns:
        Hash of the arguments, of all YAML files that the words name, directly or in one another, of size and time of other files and
        folders that these name and of what plans `READ` in those folders, of the project's sources, and of its libraries' versions.
    """
    files: dict[str, str] = {}
    others: dict[str, list[int]] = {}
    for word in words:
        _follow(word.rpartition("=")[2], Path(), files, others)
    state = {
        "arguments": dict(arguments),
        "folder": str(Path.cwd()),
        "files": files,
        "others": others,
        "sources": [[str(path), *_state(path)] for path in _sources()],
        "versions": [metadata.version(name) for name in ("torch", "lightning", "diffusers", "jsonargparse")],
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _follow(word: str, folder: Path, files: dict[str, str], others: dict[str, list[int]]) -> None:
    """Add the file that a word names, seen from a folder or from the current one, and what it names in turn."""
    if len(word) > 1000 or "\0" in word:
        return
    for path in dict.fromkeys((folder / word, Path(word))):
        if not word or str(path) in files or not path.exists():
            continue
        if path.is_file() and path.suffix in (".yaml", ".yml"):
            text = path.read_text(encoding="utf-8")
            files[str(path)] = hashlib.sha256(text.encode()).hexdigest()
            for named in _strings(_parsed(text)):
                _follow(named, path.parent, files, others)
        else:
            others[str(path)] = _state(path)
            read = [file for name in READ for pattern in (name, f"*/{name}") for file in path.glob(pattern)] if path.is_dir() else []
            others |= {str(file): _state(file) for file in read}


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, _LOADER)
    except yaml.YAMLError:
        return None  # the command's own parser reports it


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _sources() -> list[Path]:
    return sorted(path for package in ("mimdit", "datamodules", "callbacks") for path in (_ROOT / package).rglob("*.py"))


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def load(key: str) -> dict[str, Any] | None:
    """Return the plan of a key; None where there is none, or its file was cut."""
    try:
        return json.loads((cache_folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def store(key: str, plan: Mapping[str, Any]) -> None:
    """Write the plan of a key."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with replace_when_whole(cache_folder() / f"{key}.json") as temporary:
        temporary.write_text(json.dumps(plan), encoding="utf-8")
