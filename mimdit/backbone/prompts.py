"""Precomputed prompt embeddings: no text encoder is in memory while training."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mimdit.files import replace_when_whole


class PromptEmbeddings(nn.Module):
    """One prompt for all images, the same tokens in training and at inference.

    Args:
        token_width: Width of a text token.
        pooled_width: Width of the pooled embedding.
        file: Safetensors file of ``mimdit prompts encode``: ``prompt_embeds [T, token_width]`` and ``pooled_prompt_embeds [pooled_width]``,
            or ``[P, ...]`` of both for P prompts; None for one token of zeros, which a backbone pretrained here without text knows as its
            only prompt.
        text: Which of the file's prompts; None for its only one.

    Raises:
        ValueError: The file cannot be read, a tensor is missing, its width is not the transformer's, or ``text`` is not in the file, or is
            needed to choose.
    """

    def __init__(self, token_width: int, pooled_width: int, file: str | None = None, text: str | None = None) -> None:
        super().__init__()
        if file is None:
            if text is not None:
                raise ValueError(f"prompt text {text!r} needs a file of embeddings; write one with mimdit prompts encode")
            tensors = {"prompt_embeds": torch.zeros(1, token_width), "pooled_prompt_embeds": torch.zeros(pooled_width)}
        else:
            tensors = _read(Path(file), text)
        for name, width in (("prompt_embeds", token_width), ("pooled_prompt_embeds", pooled_width)):
            if name not in tensors or tensors[name].shape[-1] != width:
                found = list(tensors[name].shape) if name in tensors else "nothing"
                raise ValueError(f"prompt embeddings {file}: {name} must be {width} wide for this transformer, found {found}")
            self.register_buffer(name, tensors[name], persistent=False)

    def forward(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, T, token_width]`` and ``[B, pooled_width]``."""
        return self.prompt_embeds.expand(batch, -1, -1), self.pooled_prompt_embeds.expand(batch, -1)


def write_prompts(file: Path, prompts: list[str], tokens: torch.Tensor, pooled: torch.Tensor, *, made_with: str) -> None:
    """Write the embeddings ``[P, T, D]`` and ``[P, D']`` of P prompts, a single one without its first dimension, and the prompts' text."""
    tensors = {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}
    if len(prompts) == 1:
        tensors = {name: tensor[0] for name, tensor in tensors.items()}
    with replace_when_whole(file) as path:
        metadata = {"prompts": json.dumps(prompts), "made_with": made_with}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def _read(file: Path, text: str | None) -> dict[str, torch.Tensor]:
    remedy = "give a safetensors file with prompt_embeds and pooled_prompt_embeds"
    if not file.is_file():
        raise ValueError(f"prompt embeddings {file} do not exist; {remedy}")
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            prompts = json.loads((opened.metadata() or {}).get("prompts", "[]"))
    except SafetensorError as error:
        raise ValueError(f"prompt embeddings {file} cannot be read ({error}); {remedy}") from error
    listed = ", ".join(map(repr, prompts)) or "prompts without their text"
    if text is not None and text not in prompts:
        raise ValueError(f"prompt embeddings {file}: prompt text {text!r} is not among {listed}; choose one of them")
    if text is None and len(prompts) > 1:
        raise ValueError(f"prompt embeddings {file} hold {listed}; name one as prompt_text")
    if len(prompts) > 1:
        tensors = {name: tensor[prompts.index(text)].clone() for name, tensor in tensors.items()}
    return tensors
