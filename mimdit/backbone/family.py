"""Protocol of a family of diffusion transformers, through which `DiTBackbone` uses them unforked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from diffusers import ModelMixin
from torch import nn

Transformer = TypeVar("Transformer", bound=ModelMixin)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a transformer that codec, prompts, conditioner and tiling must match.

    Args:
        latent_channels: Channels C of the latents.
        token_patch: Latent pixels per token, in each direction.
        token_dim: Width D of the image tokens.
        num_layers: Blocks L.
        max_size: Longest side, in latent pixels, that the position embedding covers.
        text_width: Width of a text token.
        pooled_width: Width of the pooled text embedding; 0 for none.
        classifier_free: False for weights whose guidance is distilled into them: velocities with and without a prompt are not combined.
        guidance: Default of the guidance that the transformer takes as an input; None if it takes none.
    """

    latent_channels: int
    token_patch: int
    token_dim: int
    num_layers: int
    max_size: int
    text_width: int
    pooled_width: int
    classifier_free: bool = True
    guidance: float | None = None


def blocks_of(transformer: ModelMixin) -> list[nn.Module]:
    """Return the blocks of ``transformer`` in their order, those that come after the ones with residuals too."""
    return [*transformer.transformer_blocks, *getattr(transformer, "single_transformer_blocks", ())]


class Family(Protocol[Transformer]):
    """Module with these names, whose functions have no ``self``, such as `mimdit.backbone.sd3`.

    `mimdit.backbone.families.FAMILIES` lists the families.
    """

    @property
    def KIND(self) -> type[Transformer]:
        """The diffusers class."""
        ...

    @property
    def LORA_TARGETS(self) -> Sequence[str]:
        """Endings of the names of the linear layers that get adapters by default."""
        ...

    def geometry(self, transformer: Transformer) -> Geometry:
        """Return the sizes of ``transformer``, from its config."""
        ...

    def prepare(self, transformer: Transformer) -> None:
        """Prepare ``transformer`` for residuals; called once."""

    def unread(self, transformer: Transformer) -> set[nn.Module]:
        """Return linear layers that do not influence the output: adapters there would never learn."""
        ...

    def predict(
        self,
        transformer: Transformer,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        residuals: list[torch.Tensor] | None,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """Return the transformer's output ``[B, C, h, w]``; `DiTBackbone.prediction` is its meaning.

        Args:
            transformer: The transformer.
            latents: Noisy latents ``[B, C, h, w]``, in the transformer's precision, like all floats except ``sigma``.
            sigma: Noise levels ``[B]`` in 0..1, fp32.
            tokens: Text tokens ``[B, T, W]``.
            pooled: Pooled text embedding ``[B, P]``.
            residuals: n tensors ``[B, N, D]``. Residual i is added to the image tokens after each of the blocks from ``i L / n``
                (inclusive) to ``(i + 1) L / n`` (exclusive), but not after the last block. None for no residuals.
            guidance: Guidance that the transformer takes as an input; None where `Geometry.guidance` is None.
        """
        ...
