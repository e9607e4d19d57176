"""Loading of diffusers models from a folder or the Hugging Face hub; incomplete files are refused, not filled with random weights."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import diffusers
import torch
from diffusers import ModelMixin

from mimdit.backbone.int8 import loading_dtype
from mimdit.core.hub import locate

Model = TypeVar("Model", bound=ModelMixin)

_FIND: ContextVar[Callable[[str, str], Path] | None] = ContextVar("find", default=None)
_STEM = "diffusion_pytorch_model"
EXPERTS = "inner_experts.safetensors"
"""File of experts beside the weights, if there are any; see `mimdit.backbone.inner_experts`."""

# diffusers keeps the field that `mimdit.backbone.prediction` adds to a config, but warns that it ignores it.
logging.getLogger("diffusers.configuration_utils").addFilter(lambda record: "prediction_type" not in record.getMessage())


@dataclass(frozen=True)
class Origin:
    """Source of a model: its folder or hub id as given, and the hub's commit."""

    source: str
    revision: str | None = None


def load_pretrained(
    kind: type[Model] | tuple[type[Model], ...],
    pretrained: str | Path,
    subfolder: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Load a model in ``dtype``, or int8, with every weight and every field of its config; its ``origin`` names the source.

    Args:
        kind: The diffusers class, or a tuple of allowed classes, from which the model's config selects one.
        pretrained: A folder of the model (``config.json``, safetensors, whole or sharded), a pipeline's folder with ``subfolder``, or a
            hub id of either.
        subfolder: Folder of the model in a pipeline, such as ``transformer``.
        variant: Variant of the weights, such as ``fp16``; None for the default.
        revision: Branch, tag or commit of a hub id.
        dtype: Precision of the weights. Those that the files hold in it are mapped into memory, so the ranks of a node share their pages;
            others are converted one by one.

    Raises:
        ValueError: There is no such model, its files are missing, broken, incomplete or not safetensors, or they cannot be downloaded.
    """
    if (find := _FIND.get()) is not None:
        return _without_weights(kind if isinstance(kind, tuple) else (kind,), find(str(pretrained), subfolder))
    folder, commit = locate(pretrained, _patterns(subfolder, variant), revision=revision)
    folder, kind = _model_folder(kind if isinstance(kind, tuple) else (kind,), folder, subfolder)
    unreadable = f"{pretrained} cannot be read as a diffusers {kind.__name__}"
    _check_weights(folder, variant, unreadable)
    try:
        loaded = kind.from_pretrained(
            folder, variant=variant, use_safetensors=True, torch_dtype=loading_dtype(folder, dtype), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:  # diffusers raises any of these for a cut file or a tensor of another shape
        raise ValueError(f"{unreadable}: {error}; copy or save it anew") from error
    model, found = cast(tuple[Model, dict[str, Any]], loaded)  # a pair because of output_loading_info
    _check_found(found, pretrained, kind)
    set_origin(model, Origin(str(pretrained), commit))
    return model


@contextmanager
def configs_only(find: Callable[[str, str], Path]) -> Iterator[None]:
    """Make `load_pretrained` return models of the right shapes with random weights, for the duration of the context.

    Args:
        find: Function of ``pretrained`` and ``subfolder`` that returns the folder of the model's ``config.json``.
    """
    token = _FIND.set(find)
    try:
        yield
    finally:
        _FIND.reset(token)


def _without_weights(kinds: tuple[type[Model], ...], folder: Path) -> Model:
    folder, kind = _model_folder(kinds, folder, "")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = cast(Any, kind).from_config({name: value for name, value in config.items() if name != "quantization_config"})
    set_origin(cast(ModelMixin, model), Origin(str(folder)))
    return cast(Model, model)


def set_origin(model: ModelMixin, origin: Origin) -> None:
    """Store the source of a model as its attribute ``origin``."""
    vars(model)["origin"] = origin


def _patterns(subfolder: str, variant: str | None) -> list[str]:
    """Return patterns of the config and the weights of one variant, in a pipeline's folder or in the model's own."""
    mark = f".{variant}" if variant else ""
    weights = [f"{_STEM}{mark}.safetensors", f"{_STEM}{mark}-?????-of-?????.safetensors", f"{_STEM}-?????-of-?????{mark}.safetensors"]
    names = ["config.json", f"{_STEM}.safetensors.index{mark}.json", *weights, EXPERTS]
    return [place + name for place in (f"{subfolder}/", "") for name in names]


def _model_folder(kinds: tuple[type[Model], ...], folder: Path, subfolder: str) -> tuple[Path, type[Model]]:
    """Return the folder with the model's ``config.json``, ``folder/subfolder`` or ``folder``, and the class that it names."""
    places = [place for place in (folder / subfolder, folder) if (place / "config.json").is_file()]
    if not places:
        found = f"no config.json is in it or in its {subfolder} sub-folder"
    else:
        try:
            config = json.loads((places[0] / "config.json").read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{places[0] / 'config.json'} is not JSON: {error}; copy or save the model anew") from error
        for kind in kinds:
            if config.get("_class_name") == kind.__name__:
                _check_fields(kind, config, places[0])
                return places[0], kind
        found = f"its config.json describes {config.get('_class_name')!r}"
    wanted = " and no ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{folder} holds no {wanted}: {found}; give a folder that diffusers' save_pretrained wrote")


def _check_fields(kind: type[Model], config: dict, folder: Path) -> None:
    """Refuse unknown config fields: diffusers would ignore them and run a model other than the saved one."""
    known = {*inspect.signature(kind.__init__).parameters, "quantization_config", "prediction_type"}
    unknown = sorted(name for name in config if not name.startswith("_") and name not in known)
    if unknown:
        raise ValueError(
            f"{folder / 'config.json'} has {', '.join(unknown)}, which {kind.__name__} of the installed diffusers {diffusers.__version__} "
            "does not take; install the version that wrote it (its _diffusers_version) or a later one"
        )


def _check_weights(folder: Path, variant: str | None, unreadable: str) -> None:
    mark = f".{variant}" if variant else ""
    plain, index = f"{_STEM}{mark}.safetensors", f"{_STEM}.safetensors.index{mark}.json"
    if (folder / plain).is_file() or (folder / index).is_file():
        return
    there = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".safetensors"))
    variants = sorted({name.split(".")[1].split("-")[0] for name in there if name.endswith(".safetensors") and name.count(".") == 2})
    if variants:
        remedy = f"set variant to one that is there: {', '.join(variants)}"
    elif any(name.endswith(".safetensors") for name in there):
        remedy = "leave variant out" if variant else f"name the file {plain}, or add the shards' {index}"
    elif there:
        remedy = f"only {there[0]} is there, and pickled weights are not read: download the safetensors, or save it anew by diffusers"
    else:
        remedy = "download or copy the weights beside its config.json"
    raise ValueError(f"{unreadable}: neither {plain} nor {index} is in {folder}; {remedy}")


def _check_found(found: dict, pretrained: str | Path, kind: type[Model]) -> None:
    for names, fault in ((found["missing_keys"], "lack {} tensors of"), (found["unexpected_keys"], "hold {} tensors that are not part of")):
        if names:
            raise ValueError(
                f"the weights in {pretrained} {fault.format(len(names))} this {kind.__name__}, {sorted(names)[0]} among them; "
                "copy or save it anew"
            )
