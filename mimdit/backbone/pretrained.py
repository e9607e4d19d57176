"""Reading a diffusers model from a folder or the hub, and refusing what is not one instead of filling it with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import ModelMixin

Model = TypeVar("Model", bound=ModelMixin)


def load_pretrained(kind: type[Model], pretrained: str | Path, subfolder: str) -> Model:
    """A model of class ``kind`` in fp32, every weight of it from ``pretrained``.

    Args:
        kind: The diffusers class.
        pretrained: A folder of the model (``config.json``, safetensors), a pipeline's folder with ``subfolder``, or a pipeline's hub id.
        subfolder: The model's place in a pipeline, such as ``transformer``.

    Raises:
        ValueError: It is no such model, or its files are missing, broken or incomplete.
    """
    folder = Path(pretrained)
    if folder.is_dir():
        place, inside = _model_folder(kind, folder, subfolder), None
    elif str(pretrained).count("/") == 1 and not str(pretrained).startswith((".", "/", "~")):
        place, inside = pretrained, subfolder
    else:
        raise ValueError(f"{str(pretrained)!r} is neither a folder nor a hub id such as stabilityai/stable-diffusion-3.5-medium")
    try:
        model, found = kind.from_pretrained(
            place, subfolder=inside, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        raise ValueError(f"{pretrained} cannot be read as a diffusers {kind.__name__}: {error}") from error
    if found["missing_keys"]:
        raise ValueError(
            f"the weights in {pretrained} lack {len(found['missing_keys'])} tensors of this {kind.__name__}, "
            f"{sorted(found['missing_keys'])[0]} among them; copy or save it anew"
        )
    return model


def _model_folder(kind: type[Model], folder: Path, subfolder: str) -> Path:
    """Where the model's ``config.json`` is: ``folder/subfolder`` or ``folder``."""
    places = [place for place in (folder / subfolder, folder) if (place / "config.json").is_file()]
    if not places:
        found = f"no config.json is in it or in its {subfolder} sub-folder"
    else:
        try:
            name = json.loads((places[0] / "config.json").read_text()).get("_class_name")
        except json.JSONDecodeError as error:
            raise ValueError(f"{places[0] / 'config.json'} is not JSON: {error}; copy or save the model anew") from error
        if name == kind.__name__:
            return places[0]
        found = f"its config.json describes {name!r}"
    raise ValueError(f"{folder} holds no {kind.__name__}: {found}; give a folder that diffusers' save_pretrained wrote")
