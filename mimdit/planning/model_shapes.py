"""Model and batch of a config as shapes: built on the meta device, without weights, prompts or data."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import lightning as L
import torch
from jsonargparse import ArgumentParser
from safetensors import SafetensorError, safe_open
from torch import nn

from mimdit.backbone import flux
from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.inner_experts import read_settings
from mimdit.backbone.pretrained import EXPERTS, configs_only
from mimdit.core.batch import ATOMS, Batch
from mimdit.weights import EMBEDDED_BACKBONE

ARCHITECTURES = Path(__file__).parent / "architectures"
"""Public configs of pretrained models, a folder ``owner--repository`` each; sizes only, no weights."""

CLIP_TOKENS = 77
"""Tokens of SD3's prompt where its file is not there: those of CLIP alone, as configs/foundir_sd35_medium.yaml encodes it."""

FLUX_TOKENS = 512
"""The same of FLUX.1: T5's, as configs/foundir_flux1_dev.yaml encodes it."""


@dataclass(frozen=True)
class Data:
    """Training batches of a config.

    Attributes:
        batch_size: Images of a rank and micro-batch.
        crop: Side of the crops in pixels.
        latents: If true, batches hold cached posteriors instead of images.
    """

    batch_size: int
    crop: int
    latents: bool


def build(model: Mapping[str, Any]) -> L.LightningModule:
    """Return the model of a parsed config on the meta device, without weights; it logs nothing.

    Args:
        model: ``class_path`` and ``init_args``, all nested files read.

    Raises:
        ValueError: The sizes of a pretrained part are not known, or as for the model itself.
    """
    config = deepcopy(dict(model))
    tokens, guided = _without_files(config)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningModule, "model", fail_untyped=False)
    with torch.device("meta"), configs_only(find_config), torch.compiler.set_stance("force_eager"):
        built: Any = parser.instantiate_classes(parser.parse_object({"model": config}))
        module: L.LightningModule = built.model
    for part in module.modules():
        if isinstance(part, L.LightningModule):
            part.log = part.log_dict = _log_nothing  # there is no Trainer
        if isinstance(part, DiTBackbone) and tokens is not None:
            for option in guided if not part.classifier_free else ():
                part.require_unconditional(option)
            prompts, tokens = part.prompts, tokens or (FLUX_TOKENS if part.family is flux else CLIP_TOKENS)
            width, pooled = prompts.prompt_embeds.shape[-1], prompts.pooled_prompt_embeds.shape[-1]
            prompts.prompt_embeds = torch.empty(1, tokens, width, device="meta")
            prompts.pooled_prompt_embeds = torch.empty(1, pooled, device="meta")
    return module


def find_config(pretrained: str, subfolder: str) -> Path:
    """Return the folder of a pretrained part's ``config.json``: a local one, the package's, or the hub's cache; nothing is downloaded.

    Raises:
        ValueError: There is none.
    """
    known = ARCHITECTURES / pretrained.replace("/", "--")
    for folder in (Path(pretrained) / subfolder, Path(pretrained), known / subfolder, known):
        if (folder / "config.json").is_file():
            return folder
    if pretrained.count("/") == 1:
        for name in (f"{subfolder}/config.json", "config.json"):
            cached = huggingface_hub.try_to_load_from_cache(pretrained, name)
            if isinstance(cached, str):
                return Path(cached).parent
    raise ValueError(
        f"the sizes of {pretrained} ({subfolder}) are not known here: name a folder that holds {subfolder}/config.json, without weights, "
        f"in its place, or download it: hf download {pretrained} {subfolder}/config.json"
    )


def _without_files(config: dict[str, Any]) -> tuple[int | None, list[str]]:
    """Remove what would read weights or prompts from the config of a model.

    Returns:
        `prompt_tokens`, None for the model's own, and the removed options of classifier-free guidance with their values.
    """
    tokens: int | None = None
    guided: list[str] = []
    parts = _parts(config)
    for part in parts:
        arguments = part["init_args"] = dict(part.get("init_args") or {})
        name = part["class_path"].rpartition(".")[2]
        if name == "Restorer":
            arguments["pretrained"] = None
            arguments.pop("prompting", None)  # would need prompts; its cost is none
        if name == "DiTBackbone":
            if arguments.get("prompt") is not None:
                tokens = prompt_tokens(Path(arguments["prompt"]))
                arguments |= {"prompt": None, "prompt_text": None}
                if dropout := arguments.pop("prompt_dropout", 0.0):  # would need the prompts of the file; its cost is none
                    guided.append(f"prompt_dropout={dropout}")
            if arguments.get("pretrained", "embedded") == "embedded":
                arguments["pretrained"] = str(EMBEDDED_BACKBONE)
            for option in ("lora", "moe"):
                if isinstance(arguments.get(option), Mapping):
                    arguments[option] = _from_scratch(arguments[option])
            if arguments.get("moe") is None and arguments["pretrained"] is not None:
                arguments["moe"] = _saved_experts(find_config(arguments["pretrained"], "transformer"))
    flows = [part["init_args"]["flow"]["init_args"] for part in parts if part["class_path"].rpartition(".")[2] == "Restorer"]
    for flow in flows if tokens is not None else ():
        if (guidance := flow.pop("guidance", 1)) != 1:  # would need the prompts of the file; training does not use it
            guided.append(f"flow guidance={guidance}")
    return tokens, guided


def _from_scratch(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of adapters or experts, given as such or as those of a class, without the folder that they start from."""
    if "class_path" in options:
        return {**options, "init_args": _from_scratch(options.get("init_args") or {})}
    return {**options, "pretrained": None}


def _saved_experts(folder: Path) -> dict[str, Any] | None:
    """Return the options of the experts that come with a pretrained transformer; None if it has none."""
    return _from_scratch(asdict(read_settings(folder))) if (folder / EXPERTS).is_file() else None


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a class's config and those of all classes among its arguments."""
    parts = [config]
    for name, value in (config.get("init_args") or {}).items():
        if isinstance(value, Mapping) and "class_path" in value:
            config["init_args"][name] = dict(value)
            parts += _parts(config["init_args"][name])
    return parts


def prompt_tokens(file: Path) -> int:
    """Return the tokens of the prompt in ``file``, or 0 where it is not there."""
    try:
        with safe_open(file, "pt") as opened:
            return opened.get_slice("prompt_embeds").get_shape()[-2]
    except (OSError, SafetensorError):
        return 0


def _log_nothing(*_: Any, **__: Any) -> None:
    pass


def place(module: nn.Module, device: str) -> None:
    """Replace the meta tensors of ``module`` by shapes on ``device``; shared ones stay shared. Call it inside the fake mode."""
    placed: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for tensors in (cast(dict[str, Any], part._parameters), cast(dict[str, Any], part._buffers)):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in placed:
                    shape = torch.empty_like(tensor, device=device)
                    is_weight = isinstance(tensor, nn.Parameter)
                    placed[id(tensor)] = nn.Parameter(shape, requires_grad=tensor.requires_grad) if is_weight else shape
                tensors[name] = placed[id(tensor)]


def make_batch(module: L.LightningModule, data: Data, device: str) -> Batch:
    """Return the shapes of a training batch on ``device``."""
    batch, crop = data.batch_size, data.crop
    codec = next(part.codec for part in module.modules() if isinstance(part, DiTBackbone))
    names = [str(index) for index in range(batch)]
    common = {"degradation": torch.zeros(batch, len(ATOMS), device=device), "group": ["any"] * batch, "key": names, "draw": names}
    if data.latents:
        side = crop // codec.downscale
        shape = (batch, 2 * codec.channels, side, side)
        stored = {name: torch.empty(shape, dtype=torch.float16, device=device) for name in ("lq_latent", "gt_latent")}
    else:
        stored = {name: torch.empty(batch, 3, crop, crop, device=device) for name in ("lq", "gt")}
    return Batch(**stored, **common)  # type: ignore[typeddict-item]
