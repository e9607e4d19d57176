"""Reading a diffusers model from a folder or the hub, and refusing what is not one instead of filling it with random weights."""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import diffusers
from diffusers import ModelMixin

from mimdit.backbone.hub import EXAMPLE, download, looks_like_hub_id
from mimdit.backbone.int8 import compute_dtype

Model = TypeVar("Model", bound=ModelMixin)

_STEM = "diffusion_pytorch_model"

# diffusers keeps the field that `mimdit.backbone.prediction` adds to a config, but warns that it ignores it.
logging.getLogger("diffusers.configuration_utils").addFilter(lambda record: "prediction_type" not in record.getMessage())


@dataclass(frozen=True)
class Origin:
    """Where a model was read from: a folder or hub id as it was given, and the hub's commit."""

    source: str
    revision: str | None = None


def load_pretrained(
    kind: type[Model] | tuple[type[Model], ...],
    pretrained: str | Path,
    subfolder: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
) -> Model:
    """A model in fp32, or int8, every weight and every field of its config from ``pretrained``; ``origin`` tells from where.

    Args:
        kind: The diffusers class, or those that it may be of: its config says which it is.
        pretrained: A folder of the model (``config.json``, safetensors, whole or sharded), a pipeline's folder with ``subfolder``, or a
            hub id of either.
        subfolder: The model's place in a pipeline, such as ``transformer``.
        variant: Which of several sets of weights to read, such as ``fp16``; None for the plain one.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ValueError: It is no such model, its files are missing, broken, incomplete or not safetensors, or the hub does not give them.
    """
    folder, commit = Path(pretrained), None
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision {revision!r} belongs to a hub id, but {folder} is a folder; leave revision out")
    elif looks_like_hub_id(str(pretrained)):
        folder, commit = download(str(pretrained), _patterns(subfolder, variant), revision=revision)
    else:
        raise ValueError(f"{str(pretrained)!r} is neither a folder nor a hub id such as {EXAMPLE}")
    folder, kind = _model_folder(kind if isinstance(kind, tuple) else (kind,), folder, subfolder)
    unreadable = f"{pretrained} cannot be read as a diffusers {kind.__name__}"
    _check_weights(folder, variant, unreadable)
    try:
        model, found = kind.from_pretrained(
            folder, variant=variant, use_safetensors=True, torch_dtype=compute_dtype(folder), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:  # diffusers raises any of these for a cut file or a tensor of another shape
        raise ValueError(f"{unreadable}: {error}; copy or save it anew") from error
    _check_found(found, pretrained, kind)
    model.origin = Origin(str(pretrained), commit)
    return model


def _patterns(subfolder: str, variant: str | None) -> list[str]:
    """The files to fetch: config and weights of one variant, of a pipeline's part or a bare model."""
    mark = f".{variant}" if variant else ""
    weights = [f"{_STEM}{mark}.safetensors", f"{_STEM}{mark}-?????-of-?????.safetensors", f"{_STEM}-?????-of-?????{mark}.safetensors"]
    names = ["config.json", f"{_STEM}.safetensors.index{mark}.json", *weights]
    return [place + name for place in (f"{subfolder}/", "") for name in names]


def _model_folder(kinds: tuple[type[Model], ...], folder: Path, subfolder: str) -> tuple[Path, type[Model]]:
    """Where the model's ``config.json`` is, ``folder/subfolder`` or ``folder``, and the class that it names."""
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
    """Diffusers would leave out a field that it does not know, and run another model than the one that was saved."""
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
