"""Precomputed prompt embeddings: no text encoder is in memory during training or inference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mimdit.backbone.degradation_texts import nearest_text
from mimdit.core.batch import ATOMS
from mimdit.core.files import replace_when_whole
from mimdit.core.rng import send

OTHER = "other"
"""Placeholder for the degradation of a text that describes none."""


class Prompts(NamedTuple):
    """Prompts of B images: ``tokens [B, T, token_width]`` and ``pooled [B, pooled_width]``."""

    tokens: torch.Tensor
    pooled: torch.Tensor

    def repeat(self, times: int) -> Prompts:
        """Return the prompts of the batch repeated ``times``, one batch after the other."""
        return Prompts(self.tokens.repeat(times, 1, 1), self.pooled.repeat(times, 1))


class PromptEmbeddings(nn.Module):
    """Embeddings of one prompt for all images, and of the unconditional prompt; the same tokens in training and at inference.

    Both come from one file and have the same number of tokens. A file with texts by degradation (``mimdit prompts encode --by_atom``) also
    gives prompts that differ from image to image: `mixed` and `nearest`.

    Args:
        token_width: Width of a text token.
        pooled_width: Width of the pooled embedding; 0 if the transformer takes none; the file then needs none.
        file: Safetensors file written by ``mimdit prompts encode``: ``prompt_embeds [T, token_width]`` and
            ``pooled_prompt_embeds [pooled_width]``, or ``[P, ...]`` of both for P prompts; None for one token of zeros, the only prompt of
            a backbone pretrained without text.
        text: Prompt to use from the file; None for its only one, or, with texts by degradation, for the unconditional one.
        unconditional: Prompt that stands for no prompt; it may be missing, see `require_unconditional`.

    Raises:
        ValueError: The file cannot be read, a tensor is missing or has another width than the transformer, ``text`` is not in the file, or
            ``text`` is None and the file holds several prompts.
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    text_embeds: torch.Tensor | None
    pooled_text_embeds: torch.Tensor | None

    def __init__(
        self, token_width: int, pooled_width: int, file: str | None = None, text: str | None = None, unconditional: str = ""
    ) -> None:
        super().__init__()
        self.unconditional = unconditional
        self.has_unconditional = self.is_unconditional = False
        self.text, self.from_file = text, file is not None
        self.texts: list[str] = []
        self.atoms: list[str] = []
        self.encoding: dict[str, Any] = {}
        every: dict[str, torch.Tensor] = {}
        if file is None:
            if text is not None:
                raise ValueError(f"prompt text {text!r} needs a file of embeddings; write one with mimdit prompts encode")
            tensors = {"prompt_embeds": torch.zeros(1, token_width), "pooled_prompt_embeds": torch.zeros(pooled_width)}
        else:
            tensors, prompts, metadata = _read(Path(file))
            self.encoding = json.loads(metadata.get("encoding", "{}"))
            if "atoms" in metadata:
                self.texts, self.atoms, every = list(prompts), json.loads(metadata["atoms"]), tensors
                text = unconditional if text is None and unconditional in prompts else text
            chosen = _choose(file, prompts, text)
            self.text = prompts[chosen] if prompts else None
            self.has_unconditional = unconditional in prompts and prompts.index(unconditional) != chosen
            self.is_unconditional = unconditional in prompts and not self.has_unconditional
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
        count = len(self.texts)
        pooled = every.get("pooled_prompt_embeds", torch.zeros(count, 0)) if pooled_width else torch.zeros(count, 0)
        self.register_buffer("text_embeds", every["prompt_embeds"].reshape(count, -1, token_width) if count else None, persistent=False)
        self.register_buffer("pooled_text_embeds", pooled.reshape(count, pooled_width) if count else None, persistent=False)

    @property
    def reads_text(self) -> bool:
        """True if the file holds texts by degradation; false means that no text can be chosen for an image."""
        return bool(self.texts)

    def require_atoms(self, why: str) -> None:
        """Raise ValueError unless each degradation has a text; ``why`` names the option that needs it."""
        missing = [atom for atom in ATOMS if atom not in self.atoms]
        if missing:
            remedy = "write a file with mimdit prompts encode --by_atom=default, and give it as the backbone's prompt"
            raise ValueError(f"{why} needs texts by degradation, and this backbone has none for {', '.join(missing)}; {remedy}")

    def mixed(self, weights_BA: torch.Tensor) -> Prompts:
        """Return the weighted mean of the degradations' prompts for each image. Not in the paper.

        A degradation's prompt is the mean of its texts' embeddings. The image's own prompt has the rest: the probability that no
        degradation is present.

        Args:
            weights_BA: Probabilities of `mimdit.core.batch.ATOMS`, or multi-hot labels, ``[B, A]`` in 0..1.

        Raises:
            ValueError: A degradation has no text.
        """
        self.require_atoms("a mixture of prompts")
        weights_BA = weights_BA.to(self.prompt_embeds.device, torch.float32)
        weights_BP = torch.cat([(1 - weights_BA).prod(dim=1, keepdim=True), weights_BA], dim=1)
        weights_BP = weights_BP / weights_BP.sum(dim=1, keepdim=True)
        assert self.text_embeds is not None and self.pooled_text_embeds is not None
        means = []
        for own, texts in ((self.prompt_embeds, self.text_embeds), (self.pooled_prompt_embeds, self.pooled_text_embeds)):
            of_atom = [texts[[index for index, other in enumerate(self.atoms) if other == atom]].float().mean(dim=0) for atom in ATOMS]
            means.append(torch.tensordot(weights_BP, torch.stack([own[0].float(), *of_atom]), dims=1))
        return Prompts(*means)

    def nearest(self, text: str, batch: int) -> tuple[Prompts, str]:
        """Return the prompt of the cached text nearest to ``text`` for ``batch`` images, and that text; see `nearest_text`.

        Raises:
            ValueError: There are no cached texts, or none shares anything with ``text``.
        """
        if self.text_embeds is None or self.pooled_text_embeds is None:
            raise ValueError(f"prompt {text!r} cannot be chosen: this backbone has no cached texts; encode some with --by_atom=default")
        described = [other for other in self.texts if other.strip()]
        found = text if text in self.texts else nearest_text(text, described)[0]
        index = self.texts.index(found)
        tokens, pooled = self.text_embeds[index], self.pooled_text_embeds[index]
        return Prompts(tokens.expand(batch, -1, -1), pooled.expand(batch, -1)), found

    def save(self, file: Path) -> None:
        """Write a file that gives the same prompts: the texts by degradation, or else the prompt and the unconditional one."""
        if self.text_embeds is not None and self.pooled_text_embeds is not None:
            origin: dict[str, Any] = {"atoms": self.atoms, "encoding": self.encoding}
            write_prompts(file, self.texts, self.text_embeds, self.pooled_text_embeds, made_with="a restorer", **origin)
            return
        texts = [] if self.text is None else [self.text, self.unconditional][: len(self.prompt_embeds)]
        write_prompts(file, texts, self.prompt_embeds, self.pooled_prompt_embeds, made_with="a restorer")

    def add(self, text: str, tokens: torch.Tensor, pooled: torch.Tensor) -> None:
        """Add a text with its embeddings ``[T, token_width]`` and ``[pooled_width]``, so that `nearest` finds it.

        Raises:
            ValueError: There are no cached texts to add it to, or the embeddings have another shape than theirs.
        """
        if self.text_embeds is None or self.pooled_text_embeds is None:
            raise ValueError(f"prompt {text!r} cannot be added: this backbone has no cached texts; encode some with --by_atom=default")
        pooled = pooled[: self.pooled_text_embeds.shape[1]]
        if tokens.shape != self.text_embeds.shape[1:] or pooled.shape != self.pooled_text_embeds.shape[1:]:
            cached = [*self.text_embeds.shape[1:]]
            raise ValueError(f"prompt {text!r} was encoded as {[*tokens.shape]}, the cached texts as {cached}; use the same text encoders")
        self.text_embeds = torch.cat([self.text_embeds, tokens[None].to(self.text_embeds)])
        self.pooled_text_embeds = torch.cat([self.pooled_text_embeds, pooled[None].to(self.pooled_text_embeds)])
        self.texts, self.atoms = [*self.texts, text], [*self.atoms, OTHER]

    def require_unconditional(self, why: str, *, prompting: bool = False) -> None:
        """Raise ValueError if there is no unconditional prompt in addition to the prompt; ``why`` names the option that needs it.

        With ``prompting`` images have prompts of their own, and the backbone's may be the unconditional one.
        """
        if not self.has_unconditional and not (prompting and self.is_unconditional):
            raise ValueError(
                f"{why} needs the prompt {self.unconditional!r} beside another one, and this backbone has none; write both into one file "
                "with mimdit prompts encode, and choose the other as prompt_text"
            )

    def forward(self, batch: int, dropped: torch.Tensor | None = None, given: Prompts | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens ``[B, T, token_width]`` and pooled ``[B, pooled_width]``, the unconditional ones where ``dropped [B]`` is true.

        Args:
            batch: Number of images.
            dropped: Booleans ``[B]``; None for no image.
            given: Prompts of the images; None for the one of all.
        """
        if given is not None:
            tokens, pooled = (each.to(self.prompt_embeds.device) for each in given)
            if dropped is None:
                return tokens, pooled
            dropped = dropped.to(self.prompt_embeds.device)
            assert self.has_unconditional or self.is_unconditional, "require_unconditional was not called"
            none = -1  # the last row: the unconditional prompt, or the only one, which then is unconditional
            return (
                torch.where(dropped[:, None, None], self.prompt_embeds[none].to(tokens.dtype), tokens),
                torch.where(dropped[:, None], self.pooled_prompt_embeds[none].to(pooled.dtype), pooled),
            )
        if dropped is None:
            return self.prompt_embeds[:1].expand(batch, -1, -1), self.pooled_prompt_embeds[:1].expand(batch, -1)
        rows = send(dropped, self.prompt_embeds.device).long() * (0 if self.is_unconditional else 1)
        return self.prompt_embeds[rows], self.pooled_prompt_embeds[rows]


def write_prompts(
    file: Path,
    prompts: list[str],
    tokens: torch.Tensor,
    pooled: torch.Tensor,
    *,
    made_with: str,
    atoms: Sequence[str] | None = None,
    encoding: dict[str, Any] | None = None,
) -> None:
    """Write embeddings ``[P, T, D]`` and ``[P, D']`` of P prompts with their texts; a single prompt without its first dimension.

    Args:
        file: The safetensors file.
        prompts: The texts.
        tokens: Their tokens.
        pooled: Their pooled embeddings.
        made_with: Origin, for people.
        atoms: Degradation of each text, `OTHER` for none; None for a file without texts by degradation.
        encoding: Arguments of `mimdit.backbone.text_encoders.embed_prompts` that another text needs; None for none.
    """
    tensors = {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}
    if len(prompts) == 1:
        tensors = {name: tensor[0] for name, tensor in tensors.items()}
    with replace_when_whole(file) as path:
        metadata = {"prompts": json.dumps(prompts), "made_with": made_with}
        metadata |= {} if atoms is None else {"atoms": json.dumps(list(atoms))}
        metadata |= {} if encoding is None else {"encoding": json.dumps(encoding)}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def _read(file: Path) -> tuple[dict[str, torch.Tensor], list[str], dict[str, str]]:
    """Return the tensors of a file, the texts of its prompts, and all its metadata."""
    remedy = "give a safetensors file with prompt_embeds and pooled_prompt_embeds"
    if not file.is_file():
        raise ValueError(f"prompt embeddings {file} do not exist; {remedy}")
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
            prompts = json.loads(metadata.get("prompts", "[]"))
    except SafetensorError as error:
        raise ValueError(f"prompt embeddings {file} cannot be read ({error}); {remedy}") from error
    return tensors, prompts, metadata


def _choose(file: str, prompts: list[str], text: str | None) -> int:
    """Return the index of ``text`` among the prompts of a file."""
    listed = ", ".join(map(repr, prompts)) or "prompts without their text"
    if text is not None and text not in prompts:
        raise ValueError(f"prompt embeddings {file}: prompt text {text!r} is not among {listed}; choose one of them")
    if text is None and len(prompts) > 1:
        raise ValueError(f"prompt embeddings {file} hold {listed}; name one as prompt_text")
    return 0 if text is None else prompts.index(text)
