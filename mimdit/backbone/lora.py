"""Low-rank adapters (LoRA, arXiv 2106.09685) on a frozen transformer, put there by peft; files as diffusers writes and reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ModelMixin
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mimdit.backbone.family import Family
from mimdit.core.files import replace_when_whole

FILE = "pytorch_lora_weights.safetensors"

_ADAPTER = ".default"  # peft's name of the only adapter, in the name of each of its weights
_PREFIX = "transformer."
_METADATA = "lora_adapter_metadata"


@dataclass
class LoRA:
    """Which linears of the transformer get an adapter ``x -> W x + (alpha / rank) B A x``; B begins as zero, A as normal numbers.

    Args:
        rank: Rows of A and columns of B.
        alpha: Strength of the adapters; None for ``rank``, a factor of 1.
        targets: Ends of the linears' names, such as ``attn.to_q`` or ``ff.net.2``; None for all projections of the attention.
        blocks: Numbers of the transformer blocks they are sought in, from 0; None for the whole transformer.
        pretrained: Folder of trained adapters to start from, as ``mimdit export`` or diffusers wrote it.
    """

    rank: int = 16
    alpha: float | None = None
    targets: list[str] | None = None
    blocks: list[int] | None = None
    pretrained: str | None = None


def add_lora(transformer: ModelMixin, family: Family, lora: LoRA) -> None:
    """Put the adapters in, fp32, and freeze all other weights. As B is zero, the transformer's answer stays what it was, to the bit.

    Raises:
        ValueError: The rank is below 1, a block does not exist, nothing has such a name, or ``lora.pretrained`` is of other adapters.
    """
    if lora.rank < 1:
        raise ValueError(f"lora rank={lora.rank} must be at least 1; to train no adapters leave lora out")
    alpha = lora.rank if lora.alpha is None else lora.alpha
    names = _target_names(transformer, family, lora)
    _inject(transformer, LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=names, init_lora_weights="gaussian"))
    if lora.pretrained is not None:
        load_lora(transformer, lora.pretrained)


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter's weight."""
    return ".lora_A." in name or ".lora_B." in name


def base_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a module as it would be without adapters: their weights left out, all others under their own names."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in module.state_dict().items() if not is_adapter(name)}


def save_lora(transformer: ModelMixin, folder: str | Path) -> None:
    """Write the adapters of ``transformer``, fp32, as `FILE`, which diffusers' ``load_lora_adapter`` and its pipelines read."""
    weights = {name: tensor for name, tensor in transformer.state_dict().items() if is_adapter(name)}
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in _config(transformer).to_dict().items()}
    metadata = {"format": "pt", _METADATA: json.dumps({_PREFIX + name: value for name, value in config.items()}, indent=2, sort_keys=True)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with replace_when_whole(Path(folder) / FILE) as path:
        save_file({_PREFIX + name.replace(_ADAPTER, ""): tensor.contiguous() for name, tensor in weights.items()}, path, metadata=metadata)


def load_lora(transformer: ModelMixin, folder: str | Path) -> LoRA:
    """Read adapters that `save_lora` or diffusers wrote into ``transformer``, which gets them if it has none yet.

    Returns:
        What they are.

    Raises:
        ValueError: The file is missing, broken or does not say what it holds, or the transformer, or what it has already, is different.
    """
    weights, config = _read(Path(folder) / FILE)
    if not hasattr(transformer, "peft_config"):
        try:
            _inject(transformer, config)
        except ValueError as error:  # peft's, where no module has such a name
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
    return LoRA(rank=config.r, alpha=config.lora_alpha, targets=sorted(config.target_modules))


def _inject(transformer: ModelMixin, config: LoraConfig) -> None:
    if isinstance(transformer, PeftAdapterMixin):
        transformer.add_adapter(config)
    else:  # diffusers offers no adapters for this class; peft does not mind
        inject_adapter_in_model(config, transformer)
    for name, parameter in transformer.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()  # peft makes them in the precision of the frozen weight


def _config(transformer: ModelMixin) -> LoraConfig:
    return transformer.peft_config[_ADAPTER[1:]]


def _target_names(transformer: ModelMixin, family: Family, lora: LoRA) -> list[str]:
    """Full names of the linears that get an adapter."""
    blocks = transformer.transformer_blocks
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
        raise ValueError(f"lora targets {', '.join(missing)}: no linear that the velocity reads ends so; there are {', '.join(known)}")
    return sorted({name for named in found.values() for name in named})


def _read(file: Path) -> tuple[dict[str, torch.Tensor], LoraConfig]:
    """Weights by their names in the transformer, and their config."""
    remedy = "give a folder of adapters that mimdit export, or save_lora_weights of diffusers 0.35 or later, wrote"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; {remedy}")
    try:
        with safe_open(file, "pt") as opened:
            weights = {name.removeprefix(_PREFIX): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            config = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
        config = LoraConfig(**{name.removeprefix(_PREFIX): value for name, value in config.items()}) if config else None
    except (SafetensorError, json.JSONDecodeError, TypeError) as error:  # TypeError: a field that this peft does not know
        raise ValueError(f"{file} cannot be read ({error}); {remedy}") from error
    if config is None:
        raise ValueError(f"{file} does not say rank and targets of its adapters; {remedy}")
    return {name.replace(".weight", f"{_ADAPTER}.weight"): tensor for name, tensor in weights.items()}, config
