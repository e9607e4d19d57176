"""Checks of a backbone's options."""

from __future__ import annotations

from typing import NoReturn

from diffusers import ModelMixin

from mimdit.backbone.inner_experts import InnerExperts
from mimdit.backbone.lora import LoRA

DTYPES = ("float32", "bfloat16")
"""Precisions of a frozen transformer."""


def check_training(trainable: bool, lora: LoRA | None, dtype: str, prompt_dropout: float) -> None:
    """Raise ValueError if options of training exclude each other or are out of range."""
    if trainable and lora is not None:
        raise ValueError("trainable: true trains every weight of the backbone, and lora adapters instead of them; choose one of the two")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose {' or '.join(DTYPES)}")
    if trainable and dtype != "float32":
        raise ValueError(f"dtype: {dtype} is for weights that stay frozen; with trainable: true use float32")
    if not 0 <= prompt_dropout <= 1:
        raise ValueError(f"prompt_dropout={prompt_dropout} is outside [0, 1]; 0 drops no prompt")


def checked_guidance(given: float, transformer: ModelMixin, default: float | None) -> float:
    """Return the guidance ``given`` to a transformer whose own is ``default``.

    Raises:
        ValueError: The transformer takes none, or the value is negative or infinite.
    """
    if default is None:
        raise ValueError(
            f"embedded_guidance={given} is for a transformer with guidance_embeds, such as FLUX.1 [dev], and this "
            f"{type(transformer).__name__} has none; leave it out"
        )
    if not 0 <= given < float("inf"):
        raise ValueError(f"embedded_guidance={given} must be a number of at least 0; the default is {default}")
    return given


def check_int8(trainable: bool, lora: LoRA | None, moe: InnerExperts | None) -> None:
    """Raise ValueError if something would train beside int8 weights."""
    if trainable or lora is not None or moe is not None:
        raise ValueError("an int8 transformer is for inference, not for training; train the one it was quantized from")


def refuse_unconditional(why: str, transformer: ModelMixin, embedded_guidance: float | None) -> NoReturn:
    """Raise ValueError: the guidance of ``transformer`` is embedded, so ``why``, an option and its value, has no meaning."""
    if embedded_guidance is None:
        remedy = "these weights take none (guidance_embeds is false in their config): leave the option at its default"
    else:
        remedy = f"leave the option at its default and set embedded_guidance of the backbone, now {embedded_guidance:g}"
    kind = type(transformer).__name__
    raise ValueError(f"{why} is classifier-free guidance, but the guidance of {kind} is embedded: {remedy}")
