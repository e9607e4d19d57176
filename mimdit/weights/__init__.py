"""The weights that come with the package, all trained by the project's own configs; README.md in this folder has their provenance."""

from pathlib import Path

EMBEDDED_BACKBONE = Path(__file__).parent / "backbone"
"""A small SD3-class transformer in pixel space, pretrained on generated images (configs/embedded/pretrain.yaml)."""

EMBEDDED_RESTORER = Path(__file__).parent / "restorer"
"""The conditioner of the default restorer, on the embedded backbone (configs/default.yaml)."""
