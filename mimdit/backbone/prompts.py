"""Precomputed prompt embeddings: no text encoder is in memory during training or inference."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mimdit.core.files import replace_when_whole
from mimdit.core.rng import send


class PromptEmbeddings(nn.Module):
    """Embeddings of one prompt for all images, and of the unconditional prompt; the same tokens in training and at inference.

    Both come from one file and have the same number of tokens.

    Args:
        token_width: Width of a text token.
        pooled_width: Width of the pooled embedding; 0 if the transformer takes none; the file then needs none.
        file: Safetensors file written by ``mimdit prompts encode``: ``prompt_embeds [T, token_width]`` and
            ``pooled_prompt_embeds [pooled_width]``, or ``[P, ...]`` of both for P prompts; None for one token of zeros, the only prompt of
            a backbone pretrained without text.
        text: Prompt to use from the file; None for its only one.
        unconditional: Prompt that stands for no prompt; it may be missing, see `require_unconditional`.

    Raises:
        ValueError: The file cannot be read, a tensor is missing or has another width than the transformer, ``text`` is not in the file, or
            ``text`` is None and the file holds several prompts.
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor

    def __init__(
        self, token_width: int, pooled_width: int, file: str | None = None, text: str | None = None, unconditional: str = ""
    ) -> None:
        super().__init__()
        self.unconditional = unconditional
        self.has_unconditional = False
        if file is None:
            if text is not None:
                raise ValueError(f"prompt text {text!r} needs a file of embeddings; write one with mimdit prompts encode")
            tensors = {"prompt_embeds": torch.zeros(1, token_width), "pooled_prompt_embeds": torch.zeros(pooled_width)}
        else:
            tensors, prompts = _read(Path(file))
            chosen = _choose(file, prompts, text)
            self.has_unconditional = unconditional in prompts and prompts.index(unconditional) != chosen
            if len(prompts) > 1:
                rows = [chosen, prompts.index(unconditional)] if self.has_unconditional else [chosen]
                tensors = {name: tensor[rows] for name, tensor in tensors.items()}
        for name, width in (("prompt_embeds", token_width), ("pooled_prompt_embeds", pooled_width)):
            if width == 0:
                tensors[name] = torch.zeros(1 + self.has_unconditional, 0)
            if name not in tensors or tensors[name].shape[-1] != width:
                found = list(tensors[name].shape) if name in tensors else "nothing"
                raise ValueError(f"prompt embeddings {file}: {name} must be {width} wide for this transformer, found {found}")
        rows = 1 + self.has_unconditional  # the prompt, and the unconditional one, if there is one
        if tensors["prompt_embeds"].ndim == 3 and len(tensors["prompt_embeds"]) != rows:
            raise ValueError(f"prompt embeddings {file} hold several prompts without their texts; write them with mimdit prompts encode")
        self.register_buffer("prompt_embeds", tensors["prompt_embeds"].reshape(rows, -1, token_width), persistent=False)
        self.register_buffer("pooled_prompt_embeds", tensors["pooled_prompt_embeds"].reshape(rows, pooled_width), persistent=False)

    def require_unconditional(self, why: str) -> None:
        """Raise ValueError if there is no unconditional prompt in addition to the prompt; ``why`` names the option that needs it."""
        if not self.has_unconditional:
            raise ValueError(
                f"{why} needs the prompt {self.unconditional!r} beside another one, and this backbone has none; write both into one file "
                "with mimdit prompts encode, and choose the other as prompt_text"
            )

    def forward(self, batch: int, dropped: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens ``[B, T, token_width]`` and pooled ``[B, pooled_width]``, the unconditional ones where ``dropped [B]`` is true."""
        if dropped is None:
            return self.prompt_embeds[:1].expand(batch, -1, -1), self.pooled_prompt_embeds[:1].expand(batch, -1)
        rows = send(dropped, self.prompt_embeds.device).long()
        return self.prompt_embeds[rows], self.pooled_prompt_embeds[rows]


def write_prompts(file: Path, prompts: list[str], tokens: torch.Tensor, pooled: torch.Tensor, *, made_with: str) -> None:
    """Write embeddings ``[P, T, D]`` and ``[P, D']`` of P prompts with their texts; a single prompt without its first dimension."""
    tensors = {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}
    if len(prompts) == 1:
        tensors = {name: tensor[0] for name, tensor in tensors.items()}
    with replace_when_whole(file) as path:
        metadata = {"prompts": json.dumps(prompts), "made_with": made_with}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def _read(file: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors of a file and the texts of its prompts."""
    remedy = "give a safetensors file with prompt_embeds and pooled_prompt_embeds"
    if not file.is_file():
        raise ValueError(f"prompt embeddings {file} do not exist; {remedy}")
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            prompts = json.loads((opened.metadata() or {}).get("prompts", "[]"))
    except SafetensorError as error:
        raise ValueError(f"prompt embeddings {file} cannot be read ({error}); {remedy}") from error
    return tensors, prompts


def _choose(file: str, prompts: list[str], text: str | None) -> int:
    """Return the index of ``text`` among the prompts of a file."""
    listed = ", ".join(map(repr, prompts)) or "prompts without their text"
    if text is not None and text not in prompts:
        raise ValueError(f"prompt embeddings {file}: prompt text {text!r} is not among {listed}; choose one of them")
    if text is None and len(prompts) > 1:
        raise ValueError(f"prompt embeddings {file} hold {listed}; name one as prompt_text")
    return 0 if text is None else prompts.index(text)
