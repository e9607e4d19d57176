"""Configs as YAML, and the one that a run saves as ``config.yaml``: ``${…}`` stay as written, and no other run's is overwritten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from mimdit.core.collectives import on_rank_zero
from mimdit.core.files import replace_when_whole

_RELATIVE = re.compile(r"\$\{(?P<dots>\.+)(?P<path>[^\s{}:]*)\}")
_UNSERIALIZABLE = "Unable to serialize instance "
"""Start of what jsonargparse dumps in place of a default that is an object."""
_HEADER = "# lightning.pytorch=="
"""Start of every saved config."""


class SaveConfig(SaveConfigCallback):
    """Callback that saves the config into the folder of the first logger, or ``default_root_dir`` without a logger. Not in the paper.

    Args:
        parser: Parser of the verb.
        config: Resolved config, as it was parsed.
        written: The same with ``${…}`` as written; None where it has none.
        config_filename: Name of the file.
        **kwargs: Further arguments of Lightning's SaveConfigCallback.
    """

    def __init__(
        self, parser: Any, config: Any, *, written: dict[str, Any] | None = None, config_filename: str = "config.yaml", **kwargs: Any
    ) -> None:
        super().__init__(parser, config, config_filename, **kwargs)
        content = yaml.safe_load(parser.dump(config, skip_unset=False)) if written is None else written
        # the parsed config may have `true` for a random seed, which has been drawn since
        content = content | {"seed_everything": config.seed_everything}
        head = "".join(f"# {line}\n" for line in parser.dump_header or ())
        self.text = head + to_yaml(content)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save the config once. An earlier, different one of the same run becomes ``config-1.yaml`` and so on.

        validate, test and predict leave the config of a training in place and write ``config-test.yaml`` and the like.
        """
        if self.already_saved:
            return
        log_dir = trainer.log_dir or trainer.default_root_dir  # a collective; some loggers have no folder
        on_rank_zero(lambda: self._save(log_dir, stage))
        self.already_saved = True

    def refuse_other_run(self, trainer: L.Trainer) -> None:
        """Refuse to train in the folder of another run, before its logger deletes or appends anything there.

        Raises:
            ValueError: The folder to log to has a config with another ``default_root_dir`` and is not inside this run's.
        """
        path = f"{trainer.log_dir}/{self.config_filename}"
        files = get_filesystem(path)
        owner = _root_of(str(files.read_text(path, encoding="utf-8"))) if files.isfile(path) else None
        root = str(trainer.default_root_dir)
        if owner is None or _is_inside(path, root) or Path(owner).resolve() == Path(root).resolve():
            return
        raise ValueError(
            f"{path} is the config of the run in {owner}, but trainer.default_root_dir is {root}: this run would write into the other's "
            "folder. Let the logger and the checkpoints follow it: write ${trainer.default_root_dir} in their save_dir and dirpath."
        )

    def _save(self, log_dir: str, stage: str) -> None:
        files = get_filesystem(log_dir)
        files.makedirs(log_dir, exist_ok=True)
        path = f"{log_dir.rstrip('/')}/{self.config_filename}"
        if files.isfile(path):
            if files.read_text(path, encoding="utf-8") == self.text:
                return
            if stage != "fit":
                path = _numbered(path, TrainerFn(stage).value)
            else:
                number = next(number for number in range(1, 1 << 30) if not files.exists(_numbered(path, number)))
                files.mv(path, _numbered(path, number))
        if isinstance(files, LocalFileSystem):
            with replace_when_whole(path) as temporary:
                temporary.write_text(self.text, encoding="utf-8")
        else:
            files.pipe_file(path, self.text.encode())


def _numbered(path: str, mark: str | int) -> str:
    stem, _, suffix = path.rpartition(".")
    return f"{stem}-{mark}.{suffix}"


def _root_of(content: str) -> str | None:
    """Return ``trainer.default_root_dir`` of a config's text; None if it is not set or depends on other values."""
    try:
        root = yaml.safe_load(content)["trainer"]["default_root_dir"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    return root if isinstance(root, str) and "${" not in root else None


def to_yaml(config: Any) -> str:
    """Return a config as YAML, without the defaults that YAML cannot hold: the class that has them sets them itself.

    jsonargparse writes and reads every value once to resolve ``${…}``, defaults of Lightning's callbacks included. Members of an Enum are
    written as their values.
    """
    return yaml.safe_dump(_plain(config), default_flow_style=False, allow_unicode=True, sort_keys=False)


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if _is_plain(value)}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    return node.value if isinstance(node, Enum) else node


def _is_plain(value: Any) -> bool:
    if isinstance(value, str) and value.startswith(_UNSERIALIZABLE):
        return False
    return isinstance(value, Enum) or type(value) in yaml.SafeDumper.yaml_representers


def refuse_paths_of_saved(configs: list[Path], trainer: dict[str, Any]) -> None:
    """Refuse the paths of another run that came with its saved config.

    A config saved by an earlier version has paths where ``${trainer.default_root_dir}`` was written: with another ``default_root_dir`` a
    run would log and save into the old folder.

    Args:
        configs: Files of ``--config``.
        trainer: Resolved arguments of the trainer.

    Raises:
        ValueError: A path lies in the folder of a saved config's run, and that is not this run's folder.
    """
    root = trainer.get("default_root_dir") or "."
    for config in configs:
        content = config.read_text(encoding="utf-8") if config.is_file() else ""
        owner = _root_of(content) if content.startswith(_HEADER) else None
        if owner is None or Path(owner).resolve() == Path(root).resolve():
            continue
        kept = {key: value for key, value in _strings(trainer, "trainer") if _is_inside(value, owner) and not _is_inside(value, root)}
        if kept:
            listed = ", ".join(f"{key}={value}" for key, value in kept.items())
            raise ValueError(
                f"{config} is the saved config of the run in {owner}, and with trainer.default_root_dir={root} these paths would still lie "
                f"in that run's folder: {listed}. Write ${{trainer.default_root_dir}} in place of {owner} in a copy of it, or use the "
                "configs that the run was started with."
            )


def _is_inside(path: str, folder: str) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _strings(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each string with a slash, except ``default_root_dir`` itself."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _strings(value, f"{key}[{index}]")
    elif isinstance(node, str) and "/" in node and key != "trainer.default_root_dir":
        yield key, node


def with_absolute_interpolations(config: dict[str, Any]) -> dict[str, Any]:
    """Return ``config`` with each relative ``${..key}`` as the absolute ``${part.key}``, as people write it.

    jsonargparse reads absolute ones as relative. Those whose path has other keys than names and numbers stay relative.
    """

    def walk(node: Any, place: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {key: walk(value, (*place, str(key))) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*place, str(index))) for index, value in enumerate(node)]
        return _RELATIVE.sub(lambda found: _absolute(found, place), node) if isinstance(node, str) else node

    return walk(config, ())


def _absolute(found: re.Match[str], place: tuple[str, ...]) -> str:
    up = len(found["dots"])
    keys = [*place[: len(place) - up], *filter(None, re.split(r"[.\[\]]", found["path"]))]
    if up > len(place) or not keys or not all(key.isidentifier() or key.isdigit() for key in keys) or keys[0].isdigit():
        return found[0]
    return "${" + "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in keys).removeprefix(".") + "}"
