"""Precision of a backbone's transformer, and its folder: conversion, rounding, int8 and writing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from mimdit.backbone.inner_experts import copy_experts, is_expert, without_experts
from mimdit.backbone.int8 import is_int8, quantize_transformer
from mimdit.backbone.lora import is_adapter, save_lora
from mimdit.core.files import give_usual_permissions

if TYPE_CHECKING:
    from mimdit.backbone.dit import DiTBackbone


def convert(backbone: DiTBackbone, dtype: torch.dtype) -> None:
    """Convert the transformer's weights to ``dtype``; adapters and experts keep theirs."""
    for name, parameter in backbone.transformer.named_parameters():
        if not (is_adapter(name) or is_expert(name)):
            parameter.data = parameter.data.to(dtype)
    for buffer in backbone.transformer.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)


def round_weights(backbone: DiTBackbone, dtype: torch.dtype) -> None:
    """Round the transformer's weights to ``dtype`` but keep their own dtype; the identity changes with them."""
    own, transformer = backbone.transformer.dtype, cast(nn.Module, backbone.transformer)  # diffusers wraps `to` without its self
    transformer.to(dtype).to(own)
    vars(backbone).pop("frozen_identity", None)


def quantize(backbone: DiTBackbone, dtype: torch.dtype) -> None:
    """Quantize the transformer's linear layers to int8, which compute in ``dtype``; experts stay, and the identity changes."""
    with without_experts(backbone.transformer):
        quantized = quantize_transformer(backbone.transformer, dtype)
    copy_experts(backbone.transformer, quantized)
    backbone.transformer = quantized
    backbone.family.prepare(backbone.transformer)
    backbone.transformer.requires_grad_(False)
    vars(backbone).pop("frozen_identity", None)


def save(backbone: DiTBackbone, folder: str | Path, *, dtype: torch.dtype, experts: bool) -> None:
    """Write the transformer or its adapters to ``folder``; see `DiTBackbone.save_pretrained`."""
    if experts:
        backbone.save_experts(folder)
    if backbone.lora is not None:
        save_lora(backbone.transformer, folder)
        return
    transformer = backbone.transformer
    with without_experts(transformer):
        if not is_int8(transformer):
            transformer = copy.deepcopy(transformer)
            cast(nn.Module, transformer).to(dtype)
        transformer.save_pretrained(folder, safe_serialization=True)
    for weights in Path(folder).glob("*.safetensors"):
        give_usual_permissions(weights)
