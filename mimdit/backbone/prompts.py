"""Precomputed prompt embeddings: no text encoder is in memory while training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn


class PromptEmbeddings(nn.Module):
    """One prompt for all images, the same tokens in training and at inference.

    Args:
        token_width: Width of a text token.
        pooled_width: Width of the pooled embedding.
        file: Safetensors file with ``prompt_embeds [T, token_width]`` and ``pooled_prompt_embeds [pooled_width]``; None for one token of
            zeros, which a backbone pretrained here without text knows as its only prompt.

    Raises:
        ValueError: The file cannot be read, a tensor is missing, or its width is not the transformer's.
    """

    def __init__(self, token_width: int, pooled_width: int, file: str | None = None) -> None:
        super().__init__()
        if file is None:
            tensors = {"prompt_embeds": torch.zeros(1, token_width), "pooled_prompt_embeds": torch.zeros(pooled_width)}
        else:
            tensors = _read(Path(file))
        for name, width in (("prompt_embeds", token_width), ("pooled_prompt_embeds", pooled_width)):
            if name not in tensors or tensors[name].shape[-1] != width:
                found = list(tensors[name].shape) if name in tensors else "nothing"
                raise ValueError(f"prompt embeddings {file}: {name} must be {width} wide for this transformer, found {found}")
            self.register_buffer(name, tensors[name], persistent=False)

    def forward(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, T, token_width]`` and ``[B, pooled_width]``."""
        return self.prompt_embeds.expand(batch, -1, -1), self.pooled_prompt_embeds.expand(batch, -1)


def _read(file: Path) -> dict[str, torch.Tensor]:
    remedy = "give a safetensors file with prompt_embeds and pooled_prompt_embeds"
    if not file.is_file():
        raise ValueError(f"prompt embeddings {file} do not exist; {remedy}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"prompt embeddings {file} cannot be read ({error}); {remedy}") from error
