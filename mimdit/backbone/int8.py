"""A transformer whose linear layers are int8: half the bytes of bf16. By torchao, in the format that diffusers writes and reads."""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import ModelMixin, TorchAoConfig
from safetensors import safe_open


def require_torchao(what: str) -> None:
    """Raise ValueError, with the remedy, where torchao is not installed."""
    if find_spec("torchao") is None:
        raise ValueError(f"{what} needs torchao, which is not installed; pip install 'mimdit[int8]'")


def quantize_transformer(transformer: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """A copy for use: every ``nn.Linear``'s weight in int8 with a scale per output channel, all else in ``dtype``, its compute type too.

    Raises:
        ValueError: torchao is missing, or an int8 transformer came in.
    """
    require_torchao("int8")
    from torchao.quantization import Int8WeightOnlyConfig  # only who asks for int8 needs it, and it takes a second to import

    if is_int8(transformer):
        raise ValueError("this transformer is int8 already; quantise the one it was made from")
    with tempfile.TemporaryDirectory() as folder:  # diffusers quantises where it loads, and keeps a loaded model's own settings
        transformer.save_pretrained(folder, safe_serialization=True)
        quantized = type(transformer).from_pretrained(
            folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), torch_dtype=dtype, use_safetensors=True
        )
    if hasattr(transformer, "origin"):
        quantized.origin = transformer.origin
    return quantized


def is_int8(transformer: ModelMixin) -> bool:
    """Whether its weights are quantised."""
    return getattr(transformer, "hf_quantizer", None) is not None


def compute_dtype(folder: Path) -> torch.dtype:
    """The type to load the transformer in ``folder`` in: fp32, or, where it is int8, that of all else in it, as it has to be then."""
    if "quantization_config" not in json.loads((folder / "config.json").read_text()):
        return torch.float32
    require_torchao(f"{folder}, which is int8,")
    with safe_open(min(folder.glob("*.safetensors")), "pt") as file:
        bias = next(name for name in file.keys() if name.endswith(".bias"))  # noqa: SIM118  biases are never quantised
        return {"BF16": torch.bfloat16, "F32": torch.float32}[file.get_slice(bias).get_dtype()]
