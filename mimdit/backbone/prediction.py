"""Meaning of a transformer's output (velocity or sample) and its conversion to a velocity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import ModelMixin
from torch import nn

PREDICTIONS = ("velocity", "sample")
"""``velocity``: the output is ``v = eps - x``. ``sample``: the output is the clean latent x (x-prediction, arXiv 2511.13720)."""

_KEY = "prediction_type"


def prediction_of(transformer: ModelMixin) -> str:
    """Return the prediction stored with a transformer's weights; ``velocity`` if its config has none."""
    return transformer.config.get(_KEY, "velocity")


def set_prediction(transformer: ModelMixin, prediction: str) -> None:
    """Store ``prediction`` in the transformer's config, unless it is the default.

    Raises:
        ValueError: The prediction is unknown.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction {prediction!r} is unknown; choose one of {', '.join(PREDICTIONS)}")
    if prediction != prediction_of(transformer):
        transformer.register_to_config(**{_KEY: prediction})


def sample_to_velocity(sample: torch.Tensor, latents: torch.Tensor, sigma: torch.Tensor, sigma_min: float) -> torch.Tensor:
    """Return ``(z - x) / max(sigma, sigma_min)``, fp32, for clean ``sample`` and noisy ``latents`` ``[B, C, h, w]`` at ``sigma [B]``."""
    return (latents.float() - sample.float()) / sigma.float().clamp_min(sigma_min)[:, None, None, None]


@contextmanager
def replaced_output(transformer: ModelMixin, layer: nn.Module | None) -> Iterator[None]:
    """Replace the transformer's last linear layer, ``proj_out``, by ``layer`` within the context; None changes nothing."""
    if layer is None:
        yield
        return
    # A forward hook would also run the replaced layer.
    last, dtype = transformer.proj_out, next(layer.parameters()).dtype
    own = vars(last).get("forward")
    last.forward = lambda hidden_states: layer(hidden_states.to(dtype))
    try:
        yield
    finally:
        del last.forward
        if own is not None:
            last.forward = own


def zero_output_layer(transformer: ModelMixin) -> nn.Linear:
    """Return a new zero linear layer with the sizes of the transformer's last one; with it the transformer's output is zero."""
    last = transformer.proj_out
    layer = nn.Linear(last.in_features, last.out_features, device=last.weight.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
