"""Low-rank adapters (LoRA, arXiv 2106.09685) on a frozen transformer, added by peft, in the file format of diffusers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mimdit.backbone.family import Family, blocks_of
from mimdit.core.files import replace_when_whole

FILE = "pytorch_lora_weights.safetensors"

_ADAPTER = ".default"  # peft's name of the only adapter, part of the name of each weight
_PREFIX = "transformer."
_METADATA = "lora_adapter_metadata"


@dataclass
class LoRA:
    """Adapters ``x -> W x + (alpha / rank) B A x`` of linear layers; B is zero and A normal at initialization.

    Args:
        rank: Rows of A and columns of B.
        alpha: Strength of the adapters; None for ``rank``, a factor of 1.
        targets: Endings of the layers' names, such as ``attn.to_q`` or ``ff.net.2``; None for all projections of the attention.
        blocks: Indices of the transformer blocks that get adapters, from 0; FLUX.1's single blocks follow its double ones. None for the
            whole transformer.
        pretrained: Folder of trained adapters to start from, written by ``mimdit export`` or diffusers.
    """

    rank: int = 16
    alpha: float | None = None
    targets: list[str] | None = None
    blocks: list[int] | None = None
    pretrained: str | None = None


def add_lora(transformer: ModelMixin, family: Family[Any], lora: LoRA) -> None:
    """Add the adapters, in fp32, and freeze all other weights. B is zero, so the transformer's output is bitwise unchanged.

    Raises:
        ValueError: The rank is below 1, a block does not exist, no layer has such a name, or ``lora.pretrained`` holds other adapters.
    """
    if lora.rank < 1:
        raise ValueError(f"lora rank={lora.rank} must be at least 1; to train no adapters leave lora out")
    alpha = lora.rank if lora.alpha is None else lora.alpha
    names = _target_names(transformer, family, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  (peft divides it by the rank: it may be a fraction)
        target_modules=names,
        init_lora_weights="gaussian",
    )
    _inject(transformer, config)
    if lora.pretrained is not None:
        load_lora(transformer, lora.pretrained)


def is_adapter(name: str) -> bool:
    """Return true if ``name`` is the name of an adapter's weight."""
    return ".lora_A." in name or ".lora_B." in name


def base_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a module without its adapters, under the names that it would have without them."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in module.state_dict().items() if not is_adapter(name)}


def save_lora(transformer: ModelMixin, folder: str | Path) -> None:
    """Write the adapters of ``transformer``, fp32, to `FILE` in ``folder``; diffusers' ``load_lora_adapter`` reads it."""
    weights = {name: tensor for name, tensor in transformer.state_dict().items() if is_adapter(name)}
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in _config(transformer).to_dict().items()}
    metadata = {"format": "pt", _METADATA: json.dumps({_PREFIX + name: value for name, value in config.items()}, indent=2, sort_keys=True)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replace_when_whole(Path(folder) / FILE) as path:
        save_file({_PREFIX + name.replace(_ADAPTER, ""): tensor.contiguous() for name, tensor in weights.items()}, path, metadata=metadata)


def load_lora(transformer: ModelMixin, folder: str | Path) -> LoRA:
    """Load adapters written by `save_lora` or diffusers into ``transformer``; add adapters first if it has none.

    Returns:
        The configuration of the adapters.

    Raises:
        ValueError: The file is missing, broken or has no configuration, or the adapters do not fit the transformer or its adapters.
    """
    weights, config = _read(Path(folder) / FILE)
    if not hasattr(transformer, "peft_config"):
        try:
            _inject(transformer, config)
        except ValueError as error:  # from peft, where no module has such a name
            raise ValueError(f"{folder} holds adapters of another transformer: {error}; give the backbone they were trained on") from error
    live = {name: tensor for name, tensor in transformer.state_dict().items() if is_adapter(name)}
    present = _config(transformer)
    alike = {name: tensor.shape for name, tensor in live.items()} == {name: tensor.shape for name, tensor in weights.items()}
    if not alike or (present.r, present.lora_alpha) != (config.r, config.lora_alpha):
        raise ValueError(
            f"the adapters in {folder} do not fit: they have rank={config.r}, alpha={config.lora_alpha:g} and {len(weights) // 2} targets, "
            f"these have rank={present.r}, alpha={present.lora_alpha:g} and {len(live) // 2}; set these alike, on the same backbone"
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(weights[name])
    targets = config.target_modules
    return LoRA(rank=config.r, alpha=config.lora_alpha, targets=[targets] if isinstance(targets, str) else sorted(targets or ()))


def _inject(transformer: ModelMixin, config: LoraConfig) -> None:
    if isinstance(transformer, PeftAdapterMixin):
        transformer.add_adapter(config)
    else:  # diffusers has no adapters for this class, but peft does
        inject_adapter_in_model(config, transformer)
    for name, parameter in transformer.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()  # peft creates them in the precision of the frozen weight


def _config(transformer: ModelMixin) -> LoraConfig:
    return transformer.peft_config[_ADAPTER[1:]]


def _target_names(transformer: ModelMixin, family: Family[Any], lora: LoRA) -> list[str]:
    """Return the full names of the linear layers that get an adapter."""
    blocks = blocks_of(transformer)
    wrong = [block for block in lora.blocks or () if not 0 <= block < len(blocks)]
    if wrong:
        raise ValueError(f"lora blocks {wrong} do not exist: the transformer has blocks 0 to {len(blocks) - 1}")
    sought = transformer.modules() if lora.blocks is None else (module for block in lora.blocks for module in blocks[block].modules())
    linears = {module for module in sought if isinstance(module, nn.Linear)} - family.unread(transformer)
    names = [name for name, module in transformer.named_modules() if module in linears]
    ends = family.LORA_TARGETS if lora.targets is None else lora.targets
    found = {end: [name for name in names if f".{name}".endswith(f".{end}")] for end in ends}
    missing = [end for end, named in found.items() if not named]
    if not any(found.values()) or (missing and lora.targets is not None):
        known = sorted({name.split(".", 2)[-1] for name in names})
        raise ValueError(f"lora targets {', '.join(missing)}: no linear layer in use has such a name; there are {', '.join(known)}")
    return sorted({name for named in found.values() for name in named})


def _read(file: Path) -> tuple[dict[str, torch.Tensor], LoraConfig]:
    """Return the weights by their names in the transformer, and their config."""
    remedy = "give a folder of adapters that mimdit export, or save_lora_weights of diffusers 0.35 or later, wrote"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; {remedy}")
    try:
        with safe_open(file, "pt") as opened:
            weights = {name.removeprefix(_PREFIX): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            config = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
        config = LoraConfig(**{name.removeprefix(_PREFIX): value for name, value in config.items()}) if config else None
    except (SafetensorError, json.JSONDecodeError, TypeError) as error:  # TypeError: a field unknown to this version of peft
        raise ValueError(f"{file} cannot be read ({error}); {remedy}") from error
    if config is None:
        raise ValueError(f"{file} has no metadata of rank and targets; {remedy}")
    return {name.replace(".weight", f"{_ADAPTER}.weight"): tensor for name, tensor in weights.items()}, config
