"""``mimdit prompts``: prompt embeddings, computed once."""

from pathlib import Path

from mimdit.backbone.degradation_texts import read_texts
from mimdit.backbone.prompts import OTHER, write_prompts
from mimdit.backbone.text_encoders import embed_prompts, find_pipeline


def encode(
    pipeline: str,
    file: str,
    prompts: list[str] | None = None,
    by_atom: str | None = None,
    t5: bool = True,
    t5_tokens: int | None = None,
    variant: str | None = None,
    revision: str | None = None,
) -> None:
    """Write the embeddings of prompts, so that neither training nor inference needs a text encoder.

    The encoders run one after another on the CPU, in fp32: T5-XXL briefly takes 19 GB of memory.

    Args:
        pipeline: Folder or hub id of an SD3 or FLUX.1 pipeline with its text encoders and tokenizers.
        file: The safetensors file to write; a backbone takes it as ``prompt``.
        prompts: The prompts, such as '["", "a sharp photograph"]'; default is the empty prompt.
        by_atom: Also encode texts by degradation, for prompting: a YAML file of lines such as haze: a photo with haze (or a list of texts
            for each of blur, noise, jpeg, haze, rain, raindrop and lowlight), or default for the list that comes with the package.
        t5: If true, run T5; if false, its tokens are zeros, as in diffusers. FLUX.1 needs it.
        t5_tokens: Tokens of T5; default is 256 for SD3, after the 77 of CLIP, where 0 is none, and 512 for FLUX.1, which takes no others.
            Each token costs time at every step of training and restoration.
        variant: Variant of the encoders' weights, such as fp16.
        revision: Branch, tag or commit of a hub id.
    """
    prompts = [""] if prompts is None else prompts
    texts = {} if by_atom is None else read_texts(by_atom)
    named = [(atom, text) for atom, of_atom in texts.items() for text in of_atom]
    atoms = None if by_atom is None else [OTHER] * len(prompts) + [atom for atom, _ in named]
    prompts = [*prompts, *(text for _, text in named)]
    folder = find_pipeline(pipeline, t5=t5, variant=variant, revision=revision)
    tokens, pooled = embed_prompts(prompts, folder, t5=t5, t5_tokens=t5_tokens, variant=variant)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    made_with = f"{pipeline}, t5={t5}, {tokens.shape[1]} tokens"
    encoding = None if atoms is None else {"t5": t5, "t5_tokens": t5_tokens}
    write_prompts(Path(file), prompts, tokens, pooled, made_with=made_with, atoms=atoms, encoding=encoding)
    print(f"wrote {file}: {len(prompts)} prompts of {tokens.shape[1]} tokens, {tokens.shape[2]} wide, pooled {pooled.shape[1]} wide")
