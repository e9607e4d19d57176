"""Supported families of diffusion transformers, and a transformer of one with random weights."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import ModelMixin

from mimdit.backbone import flux, pixart, sd3
from mimdit.backbone.family import Family
from mimdit.backbone.prediction import set_prediction

FAMILIES: tuple[Family[Any], ...] = (sd3, pixart, flux)
"""The supported families; a checkpoint's ``_class_name`` selects one."""

KINDS = tuple(family.KIND for family in FAMILIES)
"""Their diffusers classes."""


def family_of(transformer: ModelMixin) -> Family[Any]:
    """Return the family of a transformer of one of `KINDS`."""
    return next(family for family in FAMILIES if isinstance(transformer, family.KIND))


def make_transformer(architecture: dict) -> ModelMixin:
    """Return a transformer with random weights.

    Args:
        architecture: Fields of its ``config.json``.

    Raises:
        ValueError: Its ``_class_name`` is of no supported family, or a field is none of the class.
    """
    kinds = {kind.__name__: kind for kind in KINDS}
    name = architecture.get("_class_name", sd3.KIND.__name__)
    if name not in kinds:
        raise ValueError(f"architecture: _class_name {name!r} is of no supported family; choose one of {', '.join(kinds)}")
    arguments = {key: value for key, value in architecture.items() if not key.startswith("_")}
    prediction = arguments.pop("prediction_type", "velocity")  # in a config.json, but no argument of diffusers' class
    known = inspect.signature(kinds[name].__init__).parameters
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"architecture: {name} does not take {', '.join(unknown)}; it takes {', '.join([*known][1:])}")
    transformer = kinds[name](**arguments)
    set_prediction(transformer, prediction)
    return transformer
