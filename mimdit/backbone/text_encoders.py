"""The text encoders of SD3 and FLUX.1, needed once: they compute the prompt embeddings that training and inference read from a file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5EncoderModel,
    T5TokenizerFast,  # pyright: ignore[reportAttributeAccessIssue]  (an alias in transformers 5)
)

from mimdit.core.hub import locate

_FLUX = "FluxTransformer2DModel"
_T5_TOKENS = {True: 512, False: 256}  # of FLUX.1's pipeline, and of SD3's


def find_pipeline(pipeline: str, *, t5: bool = True, variant: str | None = None, revision: str | None = None) -> Path:
    """Return the folder of an SD3 or FLUX.1 pipeline; for a hub id, the text encoders and tokenizers are downloaded.

    Raises:
        ValueError: ``pipeline`` is neither a folder nor a hub id, or its files cannot be downloaded.
    """
    mark = f".{variant}" if variant else ""
    weights = [f"model{mark}.safetensors", f"model{mark}-?????-of-?????.safetensors", f"model-?????-of-?????{mark}.safetensors"]
    patterns = ["transformer/config.json"]
    for number in ("", "_2", "_3")[: 3 if t5 else 2]:
        names = ["config.json", f"model.safetensors.index{mark}.json", *weights]
        patterns += [f"tokenizer{number}/*", *(f"text_encoder{number}/{name}" for name in names)]
    return locate(pipeline, patterns, revision=revision, wanted="a pipeline's folder")[0]


@torch.no_grad()
def embed_prompts(
    prompts: list[str], folder: Path, *, t5: bool = True, t5_tokens: int | None = None, variant: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the embeddings of ``prompts`` that the pipeline's transformer takes.

    SD3 (arXiv 2403.03206, appendix B): CLIP-L's and CLIP-G's tokens joined by channel, then T5's; both CLIPs' pooled embeddings.
    FLUX.1 (diffusers' ``FluxPipeline``): T5's tokens, and CLIP-L's pooled embedding without projection.

    Args:
        prompts: P prompts. A prompt that is too long for an encoder is truncated, with a warning.
        folder: The pipeline's folder.
        t5: If true, run T5; if false, its tokens are zeros. FLUX.1 needs it.
        t5_tokens: Number of T5 tokens, to which prompts are padded; 0 for none; None for the pipeline's default,
            256 of SD3 and 512 of FLUX.1.
        variant: Variant of the encoders' weights, such as ``fp16``; None for the default.

    Returns:
        Tokens and pooled embeddings, fp32: ``[P, 77 + t5_tokens, D]`` and ``[P, 2048]`` of SD3, ``[P, t5_tokens, D]`` and ``[P, 768]`` of
        FLUX.1. D is the transformer's ``joint_attention_dim``.

    Raises:
        ValueError: There is no prompt, ``t5_tokens`` is negative, a part of the pipeline is missing or broken, or FLUX.1 has no T5.
    """
    width, is_flux = _text_width(folder)
    if t5_tokens is None:
        t5_tokens = _T5_TOKENS[is_flux]
    if not prompts or t5_tokens < 0:
        raise ValueError(f"{len(prompts)} prompts and t5_tokens={t5_tokens}: give a prompt, which may be empty, and no negative number")
    if is_flux and not (t5 and t5_tokens):
        given = f"t5={str(t5).lower()} and t5_tokens={t5_tokens}"
        raise ValueError(f"{given}: all text tokens of FLUX.1 are T5's; use t5: true and 1 token or more")
    if is_flux:
        return _embed_for_flux(prompts, folder, width, t5_tokens, variant)
    return _embed_for_sd3(prompts, folder, width, t5_tokens, variant, t5=t5)


def _embed_for_flux(prompts: list[str], folder: Path, width: int, t5_tokens: int, variant: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    tokenizer, encoder = _load(folder, "", CLIPTokenizer, CLIPTextModel, variant)
    pooled = encoder(_token_ids(tokenizer, prompts, tokenizer.model_max_length, "text_encoder")).pooler_output
    tokens = _embed_by_t5(prompts, folder, "_2", width, t5_tokens, variant)
    return tokens.float(), pooled.float()


def _embed_for_sd3(
    prompts: list[str], folder: Path, width: int, t5_tokens: int, variant: str | None, *, t5: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    length = None
    tokens, pooled = [], []
    for number in ("", "_2"):
        tokenizer, encoder = _load(folder, number, CLIPTokenizer, CLIPTextModelWithProjection, variant)
        length = length or tokenizer.model_max_length  # CLIP-G's own limit is ignored, as in diffusers
        encoded = encoder(_token_ids(tokenizer, prompts, length, f"text_encoder{number}"), output_hidden_states=True)
        tokens.append(encoded.hidden_states[-2])
        pooled.append(encoded.text_embeds)
    clip = torch.cat(tokens, dim=-1)
    if clip.shape[-1] > width:
        raise ValueError(_misfit(folder, "CLIP", clip, width))
    clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
    long = torch.zeros(len(prompts), t5_tokens, width)
    if t5 and t5_tokens:
        long = _embed_by_t5(prompts, folder, "_3", width, t5_tokens, variant)
    return torch.cat([clip, long], dim=1).float(), torch.cat(pooled, dim=-1).float()


def _embed_by_t5(prompts: list[str], folder: Path, number: str, width: int, t5_tokens: int, variant: str | None) -> torch.Tensor:
    tokenizer, encoder = _load(folder, number, T5TokenizerFast, T5EncoderModel, variant)
    tokens = encoder(_token_ids(tokenizer, prompts, t5_tokens, f"text_encoder{number}"))[0]
    if tokens.shape[-1] != width:
        raise ValueError(_misfit(folder, "T5", tokens, width))
    return tokens


def _misfit(folder: Path, name: str, tokens: torch.Tensor, width: int) -> str:
    parts = f"{name} gives tokens {tokens.shape[-1]} wide and the transformer takes {width}"
    return f"{folder} is put together of different pipelines: {parts}; download one pipeline anew"


def _text_width(folder: Path) -> tuple[int, bool]:
    """Return the width of the transformer's text tokens, and true if it is of FLUX.1."""
    file = folder / "transformer" / "config.json"
    if not file.is_file():
        raise ValueError(f"{file} is missing; give the folder of an SD3 or FLUX.1 pipeline: that file holds the width of its text tokens")
    config = json.loads(file.read_text())
    if "joint_attention_dim" not in config:
        raise ValueError(f"{file} has no joint_attention_dim: it is of neither SD3 nor FLUX.1; give the folder of one of their pipelines")
    return config["joint_attention_dim"], config.get("_class_name") == _FLUX


def _load(
    folder: Path, number: str, tokens: type[PreTrainedTokenizerBase], kind: type[PreTrainedModel], variant: str | None
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load a tokenizer and its encoder, in fp32."""
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
