"""Text that steers the restoration: prompts by degradation, and the degradations that a text names for removal.

Not in the paper; compare AutoDIR (arXiv 2310.10123).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from mimdit.backbone.degradation_texts import clauses
from mimdit.backbone.prompts import PromptEmbeddings, Prompts
from mimdit.core.batch import ATOMS
from mimdit.restorer.sampling import SamplingSettings

if TYPE_CHECKING:
    from mimdit.restorer.restorer import Restorer

TRAINED = ("none", "detected")
"""Promptings that a restorer can be trained with."""

WORDS: Mapping[str, str] = {
    "blur": r"(?:de)?blur\w*|unsharp|out of focus|shake",
    "noise": r"(?:de)?nois\w*|grain\w*",
    "jpeg": r"jpe?g|compression|artifacts?|blocks?|blocky|blocking",
    "haze": r"(?:de)?haz[ey]\w*|fog\w*|mist\w*|smog",
    "rain": r"(?:de)?rain(?:y|ing)?|streaks?",
    "raindrop": r"(?:rain)?drops?|droplets?",
    "lowlight": r"low[- ]?light|dark\w*|dim|underexpos\w*|bright\w*|night\w*",
}
"""Words, as regular expressions, that name each of `mimdit.core.batch.ATOMS`."""


def check_trained(prompting: str, prompts: PromptEmbeddings) -> None:
    """Check a restorer's prompting.

    Raises:
        ValueError: It is unknown, or the backbone lacks texts by degradation.
    """
    if prompting not in TRAINED:
        raise ValueError(f"prompting {prompting!r} is unknown; a restorer has one of {', '.join(TRAINED)} (given needs a user's prompt)")
    if prompting == "detected":
        prompts.require_atoms("prompting: detected")


def prompts_for(settings: SamplingSettings, prompts: PromptEmbeddings, identified: torch.Tensor | None, batch: int) -> Prompts | None:
    """Return the prompts of a batch of images at inference; None for the backbone's own.

    Args:
        settings: Checked settings.
        prompts: The backbone's prompts.
        identified: Logits ``[B, A]`` of the degradations.
        batch: Number of images B.
    """
    if settings.prompting == "none":
        return None
    if settings.prompting == "given":
        assert settings.prompt is not None
        return prompts.nearest(settings.prompt, batch)[0]
    assert identified is not None, "check_settings requires an identification head"
    return prompts.mixed(torch.sigmoid(identified.float()))


def degradations_to_remove(text: str) -> tuple[str, ...]:
    """Return the degradations that a prompt names for removal, by the `WORDS` in it.

    ``"remove the haze, keep the grain"`` names haze.

    The text is read clause by clause (`mimdit.backbone.degradation_texts.clauses`). A text that names only what stays selects all others.

    Raises:
        ValueError: No degradation is named, or all that are named are also to be kept.
    """
    removed, kept = (
        {atom for atom, words in WORDS.items() for clause in each if re.search(rf"\b(?:{words})\b", clause)} for each in clauses(text)
    )
    if not removed and not kept:
        raise ValueError(f"prompt {text!r} names no degradation; name some of {', '.join(ATOMS)}, such as 'remove the haze'")
    chosen = (removed or set(ATOMS)) - kept
    if not chosen:
        raise ValueError(f"prompt {text!r} names {', '.join(sorted(kept))} both to remove and to keep; name each once")
    return tuple(atom for atom in ATOMS if atom in chosen)


def prompt_options(
    restorer: Restorer, text: str, encode: Callable[[str], tuple[torch.Tensor, torch.Tensor]] | None = None
) -> tuple[dict, str]:
    """Return the sampling options for a user's prompt, and a sentence on how the prompt is used.

    A backbone with cached texts reads the prompt: the embedding of ``encode``, or else that of the nearest cached text. For any other
    backbone, such as the embedded one, the prompt's words choose the degradations to remove (`mimdit.restorer.selective`).

    Args:
        restorer: The restorer.
        text: The prompt.
        encode: Function from a text to its embeddings ``[T, D]`` and ``[D']``; None without text encoders.

    Raises:
        ValueError: The prompt names no degradation, resembles no cached text, or ``encode`` is given for a backbone without texts.
    """
    prompts = restorer.backbone.prompts
    if not prompts.reads_text:
        if encode is not None:
            raise ValueError("text_encoders are given, but this backbone was not given texts by degradation; encode some with --by_atom")
        only = degradations_to_remove(text)
        return {"only": only}, f"this backbone reads no text: the words of the prompt select --only {','.join(only)}"
    options = {"prompting": "given", "prompt": text}
    if encode is not None:
        prompts.add(text, *encode(text))
        return options, f"prompt {text!r}: encoded"
    return options, f"prompt {text!r}: no text encoder is given, the nearest cached text is {prompts.nearest(text, 1)[1]!r}"
