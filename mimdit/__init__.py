"""MiM-DiT: all-in-one image restoration with a pretrained diffusion transformer steered by a MoE-in-MoE conditioner (arXiv 2603.02710)."""

from importlib import import_module
from typing import Any

from mimdit.core import moved_names

moved_names.install()

_HOMES = {
    "DiTBackbone": "mimdit.backbone.dit",
    "MiMDiTPipeline": "mimdit.restorer.pipeline",
    "MoEConditioner": "mimdit.conditioner.moe_conditioner",
    "Restorer": "mimdit.restorer.restorer",
    "RoutingBalance": "mimdit.routing.balance",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import the parts on first use: ``mimdit --help`` would otherwise wait seconds for torch, lightning and diffusers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
