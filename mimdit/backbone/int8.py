"""Transformers with int8 linear layers, half the bytes of bf16; quantized by torchao, in the format of diffusers."""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import ModelMixin, TorchAoConfig
from safetensors import safe_open


def require_torchao(what: str) -> None:
    """Raise ValueError, with the remedy, if torchao is not installed; ``what`` names the feature that needs it."""
    if find_spec("torchao") is None:
        raise ValueError(f"{what} needs torchao, which is not installed; pip install 'mimdit[int8]'")


def quantize_transformer(transformer: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """Return a copy for inference: weights of every ``nn.Linear`` in int8 with a scale per output channel, all else in ``dtype``.

    ``dtype`` is also the compute type.

    Raises:
        ValueError: torchao is missing, or the transformer is int8 already.
    """
    require_torchao("int8")
    from torchao.quantization import Int8WeightOnlyConfig  # optional, and takes a second to import

    if is_int8(transformer):
        raise ValueError("this transformer is int8 already; quantize the one it was made from")
    with tempfile.TemporaryDirectory() as folder:  # diffusers quantizes only when it loads, and keeps the settings of a loaded model
        transformer.save_pretrained(folder, safe_serialization=True)
        quantized = type(transformer).from_pretrained(
            folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), torch_dtype=dtype, use_safetensors=True
        )
    if hasattr(transformer, "origin"):
        quantized.origin = transformer.origin
    return quantized


def is_int8(transformer: ModelMixin) -> bool:
    """Return true if the transformer's weights are int8."""
    return getattr(transformer, "hf_quantizer", None) is not None


def loading_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    """Return the type to load the transformer in ``folder`` with: ``dtype``, or that of an int8 transformer's unquantized weights."""
    if "quantization_config" not in json.loads((folder / "config.json").read_text()):
        return dtype
    require_torchao(f"{folder}, which is int8,")
    with safe_open(min(folder.glob("*.safetensors")), "pt") as file:
        bias = next(name for name in file.keys() if name.endswith(".bias"))  # noqa: SIM118  biases are never quantized
        return {"BF16": torch.bfloat16, "F32": torch.float32}[file.get_slice(bias).get_dtype()]
