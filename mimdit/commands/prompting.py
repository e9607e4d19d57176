"""Options of ``mimdit restore`` that choose the degradations to remove and the DiT's text."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch

from mimdit.restorer.prompting import prompt_options
from mimdit.restorer.restorer import Restorer
from mimdit.restorer.sampling import parse_only


def prompting_options(
    restorer: Restorer, only: str | None, prompting: str | None, prompt: str | None, text_encoders: str | None
) -> dict[str, Any]:
    """Return the sampling options for ``only`` and the prompting; print how a prompt is used.

    Args:
        restorer: The restorer.
        only: As on the command line, like the others.
        prompting: Text that the DiT gets.
        prompt: Text of the user.
        text_encoders: Pipeline that encodes it.

    Raises:
        ValueError: The options exclude each other.
    """
    if prompt is None:
        if text_encoders is not None:
            raise ValueError(f"text_encoders={text_encoders} encode a prompt; give one, or leave them out")
        return {"only": None if only is None else parse_only(only), "prompting": prompting}
    if prompting not in (None, "given"):
        raise ValueError(f"prompting={prompting} takes no prompt; leave one of them out")
    options, said = prompt_options(restorer, prompt, None if text_encoders is None else partial(_encode, restorer, text_encoders))
    if only is not None and "only" in options:
        raise ValueError(f"only={only} and prompt={prompt!r} both choose the degradations to remove; {said}; give one of them")
    print(said, file=sys.stderr)
    return options if only is None else options | {"only": parse_only(only)}


def _encode(restorer: Restorer, pipeline: str, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings ``[T, D]`` and ``[D']`` of a text, encoded as the backbone's cached texts were."""
    from mimdit.backbone.text_encoders import embed_prompts, find_pipeline  # transformers takes seconds to import

    encoding = restorer.backbone.prompts.encoding
    tokens, pooled = embed_prompts([text], find_pipeline(pipeline, t5=encoding["t5"]), **encoding)
    return tokens[0], pooled[0]
