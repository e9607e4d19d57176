"""The files of a restorer's folder beside its conditioner's, and what may be put together from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from mimdit.backbone.dit import DiTBackbone
from mimdit.backbone.identity import check_identity
from mimdit.conditioner.int8 import is_quantized
from mimdit.conditioner.moe_conditioner import MoEConditioner
from mimdit.core.files import replace_when_whole
from mimdit.restorer.inference import Restoring
from mimdit.restorer.steering import MeasuredGates

SETTINGS = "restorer.json"

ADAPTERS = "lora"
"""The folder of the backbone's adapters."""

OUTPUT_LAYER = "output_layer.safetensors"
"""The restorer's own last layer, where it has an anchor."""

GATES = "gates.json"
"""What the gates were measured to do."""


def write_settings(folder: Path, settings: dict[str, Any], measured_gates: MeasuredGates | None) -> None:
    """Write a restorer's settings, and what its gates were measured to do, if they were."""
    with replace_when_whole(folder / SETTINGS) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n")
    if measured_gates is not None:
        with replace_when_whole(folder / GATES) as path:
            path.write_text(json.dumps(measured_gates.as_json()) + "\n")


def read_settings(folder: Path) -> tuple[dict[str, Any], MeasuredGates | None]:
    """What `write_settings` wrote.

    Raises:
        ValueError: There are no settings in ``folder``.
    """
    if not (folder / SETTINGS).is_file():
        remedy = "point to a folder written by Restorer.save_pretrained"
        raise ValueError(f"{folder} is not a restorer folder: {SETTINGS} is missing; {remedy}")
    gates = MeasuredGates.from_json(json.loads((folder / GATES).read_text())) if (folder / GATES).is_file() else None
    return json.loads((folder / SETTINGS).read_text()), gates


def save_output_layer(restorer: Restoring, folder: Path) -> None:
    """Write the restorer's own last layer into ``folder``, if it has one."""
    if restorer.output_layer is not None:
        with replace_when_whole(folder / OUTPUT_LAYER) as path:
            save_file({name: tensor.contiguous() for name, tensor in restorer.output_layer.state_dict().items()}, path)


def load_output_layer(restorer: Restoring, folder: Path, *, required: bool = False) -> None:
    """Read the restorer's own last layer, if it has one; where ``folder`` has none it stays as it is, unless it is ``required``.

    Raises:
        ValueError: It is of another size, or it is missing and required.
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


def start_from(folder: Path, backbone: DiTBackbone, conditioner: MoEConditioner) -> None:
    """Give the conditioner, and the backbone's adapters if there are any, the weights in ``folder``.

    Raises:
        ValueError: They do not fit.
    """
    _load_conditioner(conditioner, folder)
    _load_adapters(backbone, folder)


def _load_conditioner(conditioner: MoEConditioner, folder: Path) -> None:
    start = MoEConditioner.from_pretrained(folder)
    if is_quantized([*start.state_dict()]):
        raise ValueError(f"{folder} holds int8 weights, which are for use and not to train on; start from the folder it was made from")
    try:
        conditioner.load_state_dict(start.state_dict())
    except RuntimeError as error:
        other = ", ".join(f"{name}={value!r}" for name, value in start.config.items() if conditioner.config[name] != value)
        raise ValueError(f"the conditioner in {folder} does not fit this one: it was made with {other}; set these alike") from error


def _load_adapters(backbone: DiTBackbone, folder: Path) -> None:
    adapters = folder / ADAPTERS
    if backbone.lora is not None and adapters.is_dir():
        backbone.load_lora(adapters)
    elif adapters.is_dir():
        raise ValueError(f"the conditioner in {folder} was trained with the adapters in {adapters}; give the backbone lora of their rank")


def check_frozen(saved: dict, backbone: DiTBackbone, folder: Path) -> None:
    """Refuse a backbone that the restorer in ``folder`` was not trained on; folders of earlier versions do not say."""
    if not saved:
        return
    if "codec" in saved and not backbone.codec.state_dict():
        raise ValueError(
            f"{folder} was trained on latents of {saved['codec']['source']}, but this backbone works on pixels; pass the backbone it was "
            "trained on, with its VAECodec"
        )
    check_identity(saved, backbone.frozen_identity)
