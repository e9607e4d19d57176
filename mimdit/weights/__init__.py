"""The weights that come with the package, all trained by the project's own configs; docs/results/provenance.md has the commands."""

from pathlib import Path

EMBEDDED_BACKBONE = Path(__file__).parent / "backbone"
"""A small SD3-class transformer in pixel space, pretrained on generated images (docs/results/provenance.md)."""

EMBEDDED_RESTORER = Path(__file__).parent / "restorer"
"""The conditioner of the default restorer, on the embedded backbone (configs/default.yaml)."""
