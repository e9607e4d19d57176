"""SD3's three text encoders, needed once: they turn prompts into the embeddings that training and inference read from a file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5EncoderModel,
    T5TokenizerFast,
)

from mimdit.backbone.hub import EXAMPLE, download, looks_like_hub_id


def find_pipeline(pipeline: str, *, t5: bool = True, variant: str | None = None, revision: str | None = None) -> Path:
    """The pipeline's folder, of which the text encoders and tokenizers are fetched where ``pipeline`` is a hub id.

    Raises:
        ValueError: It is neither, or the hub does not give the files.
    """
    if Path(pipeline).is_dir():
        if revision is not None:
            raise ValueError(f"revision {revision!r} belongs to a hub id, but {pipeline} is a folder; leave revision out")
        return Path(pipeline)
    if not looks_like_hub_id(pipeline):
        raise ValueError(f"{pipeline!r} is neither a pipeline's folder nor a hub id such as {EXAMPLE}")
    mark = f".{variant}" if variant else ""
    weights = [f"model{mark}.safetensors", f"model{mark}-?????-of-?????.safetensors", f"model-?????-of-?????{mark}.safetensors"]
    patterns = ["transformer/config.json"]
    for number in ("", "_2", "_3")[: 3 if t5 else 2]:
        names = ["config.json", f"model.safetensors.index{mark}.json", *weights]
        patterns += [f"tokenizer{number}/*", *(f"text_encoder{number}/{name}" for name in names)]
    return download(pipeline, patterns, revision=revision)[0]


@torch.no_grad()
def embed_prompts(
    prompts: list[str], folder: Path, *, t5: bool = True, t5_tokens: int = 256, variant: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of ``prompts`` as SD3 takes them (arXiv 2403.03206, appendix B): CLIP-L beside CLIP-G, then the tokens of T5.

    Args:
        prompts: P prompts. One that is too long for an encoder is cut there, with a warning.
        folder: The pipeline's folder.
        t5: Whether T5 is asked; if not, its tokens are zeros.
        t5_tokens: Tokens of T5, the prompt padded to them; 0 for none.
        variant: Which set of the encoders' weights to read, such as ``fp16``.

    Returns:
        ``[P, 77 + t5_tokens, D]`` and the pooled ``[P, 2048]``, fp32; D is the transformer's ``joint_attention_dim``.

    Raises:
        ValueError: There is no prompt, ``t5_tokens`` is negative, or a part of the pipeline is missing or broken.
    """
    if not prompts or t5_tokens < 0:
        raise ValueError(f"{len(prompts)} prompts and t5_tokens={t5_tokens}: give a prompt, which may be empty, and no negative number")
    width, length = _text_width(folder), None
    tokens, pooled = [], []
    for number in ("", "_2"):
        tokenizer, encoder = _load(folder, number, CLIPTokenizer, CLIPTextModelWithProjection, variant)
        length = length or tokenizer.model_max_length  # CLIP-G's own is not asked, as in diffusers
        said = encoder(_token_ids(tokenizer, prompts, length, f"text_encoder{number}"), output_hidden_states=True)
        tokens.append(said.hidden_states[-2])
        pooled.append(said.text_embeds)
    clip = torch.cat(tokens, dim=-1)
    if clip.shape[-1] > width:
        raise ValueError(_misfit(folder, "CLIP", clip, width))
    clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
    long = torch.zeros(len(prompts), t5_tokens, width)
    if t5 and t5_tokens:
        tokenizer, encoder = _load(folder, "_3", T5TokenizerFast, T5EncoderModel, variant)
        long = encoder(_token_ids(tokenizer, prompts, t5_tokens, "text_encoder_3"))[0]
        if long.shape[-1] != width:
            raise ValueError(_misfit(folder, "T5", long, width))
    return torch.cat([clip, long], dim=1).float(), torch.cat(pooled, dim=-1).float()


def _misfit(folder: Path, name: str, tokens: torch.Tensor, width: int) -> str:
    parts = f"{name} gives tokens {tokens.shape[-1]} wide and the transformer takes {width}"
    return f"{folder} is put together of different pipelines: {parts}; download one pipeline anew"


def _text_width(folder: Path) -> int:
    """Width of the transformer's text tokens."""
    file = folder / "transformer" / "config.json"
    if not file.is_file():
        raise ValueError(f"{file} is missing; give the folder of an SD3 pipeline: that file tells how wide its text tokens are")
    config = json.loads(file.read_text())
    if "joint_attention_dim" not in config:
        raise ValueError(f"{file} has no joint_attention_dim: it is not of an SD3 transformer; give the folder of an SD3 pipeline")
    return config["joint_attention_dim"]


def _load(
    folder: Path, number: str, tokens: type[PreTrainedTokenizerBase], kind: type[PreTrainedModel], variant: str | None
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """A tokenizer and its encoder in fp32."""
    places = [folder / f"{part}{number}" for part in ("tokenizer", "text_encoder")]
    for place in places:
        if not place.is_dir():
            hint = ", or leave T5 out with --t5=false" if number == "_3" else ""
            raise ValueError(f"{folder} has no {place.name}; download the pipeline's {place.name} into it{hint}")
    try:
        encoder = kind.from_pretrained(places[1], variant=variant, use_safetensors=True, dtype=torch.float32)
        return tokens.from_pretrained(places[0]), encoder.eval()
    except (OSError, ValueError) as error:
        raise ValueError(f"{places[0]} and {places[1]} cannot be read: {error}; download or copy them anew, as safetensors") from error


def _token_ids(tokenizer: PreTrainedTokenizerBase, prompts: list[str], length: int, name: str) -> torch.Tensor:
    for prompt in prompts:
        needed = len(tokenizer(prompt).input_ids)
        if needed > length:
            warnings.warn(f"{name} cuts the prompt {prompt!r} of {needed} tokens at {length}", stacklevel=2)
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
