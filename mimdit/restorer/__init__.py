"""The restorer: training, inference on images of any size, saving, and the diffusers pipeline."""

from importlib import import_module
from typing import Any

_HOMES = {
    "MiMDiTPipeline": "mimdit.restorer.pipeline",
    "Restorer": "mimdit.restorer.restorer",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public class on first use: the other modules of this package need neither diffusers nor one another."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
