"""Folder of a restorer for inference: its files, written and read."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.identity import check_identity
from mimdit.backbone.int8 import is_int8
from mimdit.backbone.lora import save_lora
from mimdit.conditioner.int8 import is_quantized
from mimdit.conditioner.moe_conditioner import MoEConditioner
from mimdit.core.files import replace_when_whole
from mimdit.flow import FlowMatching
from mimdit.restorer.steering import MeasuredGates
from mimdit.routing.balance import RoutingBalance

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer

SETTINGS = "restorer.json"

BACKBONE = "backbone"
"""Sub-folder of the backbone, if it was trained or the folder is complete."""

ADAPTERS = "lora"
"""Sub-folder of the backbone's adapters."""

EXPERTS = "experts"
"""Sub-folder of the experts inside a frozen transformer."""

OUTPUT_LAYER = "output_layer.safetensors"
"""File of the restorer's own output layer, if it has an anchor."""

PROMPTS = "prompts.safetensors"
"""File of the prompts of a written backbone, if it has any."""

GATES = "gates.json"
"""File of the measured gates, if any."""


def save_restorer(restorer: Restorer, folder: Path, *, average: bool, dtype: torch.dtype, complete: bool = False) -> None:
    """Write a restorer's folder; parts of an earlier restorer that stay in it are not read again.

    Args:
        restorer: The restorer.
        folder: Folder to write.
        average: If true, write the averaged weights, otherwise the weights of the last step.
        dtype: Precision of a written backbone.
        complete: If true, also write a backbone that was not trained.
    """
    with restorer.ema.averaged() if average else nullcontext():
        parts = _write_weights(restorer, folder, dtype, complete=complete)
    _write_settings(restorer, folder, parts)


def _write_weights(restorer: Restorer, folder: Path, dtype: torch.dtype, *, complete: bool) -> list[str]:
    """Write the conditioner, the output layer, and the backbone in ``dtype``, or its adapters and experts; return the optional parts."""
    backbone, parts = restorer.backbone, list[str]()
    restorer.conditioner.save_pretrained(folder)
    if restorer.output_layer is not None:
        with replace_when_whole(folder / OUTPUT_LAYER) as path:
            save_file({name: tensor.contiguous() for name, tensor in restorer.output_layer.state_dict().items()}, path)
        parts.append(OUTPUT_LAYER)
    if backbone.trainable or complete:
        backbone.save_pretrained(folder / BACKBONE, dtype=dtype, experts=backbone.trainable)
        parts.append(BACKBONE)
        if backbone.prompts.from_file:
            backbone.prompts.save(folder / PROMPTS)
            parts.append(PROMPTS)
    if not backbone.trainable:
        if backbone.moe is not None:
            backbone.save_experts(folder / EXPERTS)
            parts.append(EXPERTS)
        if backbone.lora is not None:
            save_lora(backbone.transformer, folder / ADAPTERS)
            parts.append(ADAPTERS)
    return parts


def _write_settings(restorer: Restorer, folder: Path, parts: list[str]) -> None:
    """Write the measured gates, and the settings with the folder's parts and the identity of the frozen weights."""
    anchored, backbone = restorer.anchor != "none", restorer.backbone
    if restorer.measured_gates is not None:
        with replace_when_whole(folder / GATES) as path:
            path.write_text(json.dumps(restorer.measured_gates.as_json()) + "\n")
        parts = [*parts, GATES]
    settings = {"flow": vars(restorer.flow), "tile": restorer.tile, "overlap": restorer.overlap, "seed": restorer.seed}
    settings |= {"anchor": restorer.anchor} if anchored else {}
    settings |= {"prompting": restorer.prompting} if restorer.prompting != "none" else {}
    settings |= {"caution": restorer.caution} if restorer.caution else {}
    if sigma_min := backbone.min_divisor(anchored=anchored):
        settings["sigma_min"] = sigma_min
    if BACKBONE in parts and backbone.embedded_guidance is not None:
        settings["embedded_guidance"] = backbone.embedded_guidance
    if PROMPTS in parts:
        settings |= {"prompt_text": backbone.prompts.text, "unconditional_text": backbone.prompts.unconditional}
    settings["parts"] = parts
    settings["frozen"] = backbone.frozen_identity
    with replace_when_whole(folder / SETTINGS) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def holds(folder: Path, part: str) -> bool:
    """Return true if a folder has a part that belongs to its restorer; in folders that do not list their parts, all that are there do."""
    if not (folder / part).exists():
        return False
    settings = json.loads((folder / SETTINGS).read_text()) if (folder / SETTINGS).is_file() else {}
    return part in settings.get("parts", [part])


def load_restorer(kind: type[Restorer], folder: Path, backbone: DiTBackbone | None, dtype: torch.dtype | None) -> Restorer:
    """Return a restorer of class ``kind`` from a folder, in eval mode; the other arguments are those of `Restorer.from_pretrained`.

    Raises:
        ValueError: The folder lacks a file, or the frozen parts of the backbone are not the ones that it was trained on.
    """
    parts = _read_parts(folder, backbone)
    restorer = kind(parts.backbone, parts.conditioner, RoutingBalance(), parts.flow, **parts.settings)
    _check_frozen(parts.frozen, parts.backbone, folder)
    _load_output_layer(restorer, folder, required=True)
    restorer.ema.restart()
    restorer.measured_gates = parts.measured_gates
    if dtype is not None and not is_int8(parts.backbone.transformer):
        parts.backbone.to_dtype(dtype)
    return restorer.eval()


@dataclass(frozen=True)
class _Parts:
    """Parts of a restorer that were read from a folder.

    Attributes:
        backbone: The backbone, with the folder's adapters, experts and ``sigma_min``.
        conditioner: The conditioner with its weights.
        flow: Path and sampling.
        settings: Further arguments of `mimdit.Restorer`.
        frozen: Identity of the weights that the restorer was trained on and that the folder does not hold; empty in old folders.
        measured_gates: Measured gates, or None.
    """

    backbone: DiTBackbone
    conditioner: MoEConditioner
    flow: FlowMatching
    settings: dict[str, Any]
    frozen: dict[str, Any]
    measured_gates: MeasuredGates | None


def _read_parts(folder: Path, backbone: DiTBackbone | None) -> _Parts:
    """Read a folder's parts around ``backbone``; None for the folder's own, or else the embedded one.

    Raises:
        ValueError: The folder lacks a file.
    """
    if not (folder / SETTINGS).is_file():
        remedy = "point to a folder written by Restorer.save_pretrained"
        raise ValueError(f"{folder} is not a restorer folder: {SETTINGS} is missing; {remedy}")
    settings = json.loads((folder / SETTINGS).read_text())
    settings.pop("parts", None)
    inputs = {name: settings.pop(name) for name in ("embedded_guidance", "prompt_text", "unconditional_text") if name in settings}
    gates = MeasuredGates.from_json(json.loads((folder / GATES).read_text())) if holds(folder, GATES) else None
    if backbone is None and (folder / BACKBONE).is_dir():  # also one put there by hand; its identity is checked
        prompt = str(folder / PROMPTS) if holds(folder, PROMPTS) else None
        backbone = DiTBackbone(str(folder / BACKBONE), prompt=prompt, **inputs)
    backbone = backbone or DiTBackbone("embedded")
    if holds(folder, ADAPTERS):
        backbone.load_lora(folder / ADAPTERS)
    if holds(folder, EXPERTS):
        backbone.load_experts(folder / EXPERTS)
    backbone.sigma_min = settings.pop("sigma_min", backbone.sigma_min)
    frozen, flow = settings.pop("frozen", {}), FlowMatching(**settings.pop("flow"))
    return _Parts(backbone, MoEConditioner.from_pretrained(folder), flow, settings, frozen, gates)


def _load_output_layer(restorer: Restorer, folder: Path, *, required: bool = False) -> None:
    """Load the restorer's own output layer, if it has one; if its file is missing and not ``required``, leave the layer unchanged.

    Raises:
        ValueError: The file's layer has another size, or the file is missing and required.
    """
    if restorer.output_layer is None:
        return
    if not (folder / OUTPUT_LAYER).is_file():
        if required:
            raise ValueError(f"{folder} has anchor: {restorer.anchor}, but {OUTPUT_LAYER} is missing; copy the folder anew")
        return
    state = load_file(folder / OUTPUT_LAYER)
    expected = {name: tuple(tensor.shape) for name, tensor in restorer.output_layer.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        raise ValueError(f"{folder / OUTPUT_LAYER} holds {found}, but this backbone needs {expected}; use the backbone it was trained on")
    restorer.output_layer.load_state_dict(state)


def _check_frozen(saved: dict[str, Any], backbone: DiTBackbone, folder: Path) -> None:
    """Check that the restorer in ``folder`` was trained on this backbone; old folders hold no identity and pass.

    Raises:
        ValueError: The frozen weights or the codec differ.
    """
    if not saved:
        return
    if "codec" in saved and not backbone.codec.state_dict():
        raise ValueError(
            f"{folder} was trained on latents of {saved['codec']['source']}, but this backbone works on pixels; pass the backbone it was "
            "trained on, with its VAECodec"
        )
    check_identity(saved, backbone.frozen_identity)


def start_from(restorer: Restorer, folder: Path) -> None:
    """Load the weights in ``folder`` to start training from: conditioner, adapters, experts and output layer.

    Raises:
        ValueError: The weights do not fit the restorer.
    """
    _load_conditioner(restorer.conditioner, folder)
    _load_adapters(restorer.backbone, folder)
    _load_experts(restorer.backbone, folder)
    _load_output_layer(restorer, folder)


def _load_conditioner(conditioner: MoEConditioner, folder: Path) -> None:
    start = MoEConditioner.from_pretrained(folder)
    if is_quantized([*start.state_dict()]):
        raise ValueError(f"{folder} holds int8 weights, which cannot be trained; start from the folder it was made from")
    try:
        conditioner.load_state_dict(start.state_dict())
    except RuntimeError as error:
        other = ", ".join(f"{name}={value!r}" for name, value in start.config.items() if conditioner.config[name] != value)
        raise ValueError(f"the conditioner in {folder} does not fit this one: it was made with {other}; set these alike") from error


def _load_adapters(backbone: DiTBackbone, folder: Path) -> None:
    adapters = folder / ADAPTERS
    if backbone.lora is not None and holds(folder, ADAPTERS):
        backbone.load_lora(adapters)
    elif holds(folder, ADAPTERS):
        raise ValueError(f"the conditioner in {folder} was trained with the adapters in {adapters}; give the backbone lora of their rank")


def _load_experts(backbone: DiTBackbone, folder: Path) -> None:
    experts = folder / EXPERTS
    if not holds(folder, EXPERTS):
        return
    if backbone.moe is None:
        raise ValueError(f"the conditioner in {folder} was trained with the experts in {experts}; give the backbone moe of their settings")
    backbone.load_experts(experts)
