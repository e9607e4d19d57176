"""``mimdit prompts``: prompt embeddings, computed once."""

from pathlib import Path

from mimdit.backbone.prompts import write_prompts
from mimdit.backbone.text_encoders import embed_prompts, find_pipeline


def encode(
    pipeline: str,
    file: str,
    prompts: list[str] | None = None,
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
        t5: If true, run T5; if false, its tokens are zeros, as in diffusers. FLUX.1 needs it.
        t5_tokens: Tokens of T5; default is 256 for SD3, after the 77 of CLIP, where 0 is none, and 512 for FLUX.1, which takes no others.
            Each token costs time at every step of training and restoration.
        variant: Variant of the encoders' weights, such as fp16.
        revision: Branch, tag or commit of a hub id.
    """
    prompts = [""] if prompts is None else prompts
    folder = find_pipeline(pipeline, t5=t5, variant=variant, revision=revision)
    tokens, pooled = embed_prompts(prompts, folder, t5=t5, t5_tokens=t5_tokens, variant=variant)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_prompts(Path(file), prompts, tokens, pooled, made_with=f"{pipeline}, t5={t5}, {tokens.shape[1]} tokens")
    print(f"wrote {file}: {len(prompts)} prompts of {tokens.shape[1]} tokens, {tokens.shape[2]} wide, pooled {pooled.shape[1]} wide")
