"""The weights that come with the package, all trained by the project's own configs; docs/results/provenance.md has the commands."""

from pathlib import Path

EMBEDDED_BACKBONE = Path(__file__).parent / "backbone"
"""A small SD3-class transformer in pixel space, pretrained on generated images (docs/results/provenance.md)."""

EMBEDDED_RESTORER = Path(__file__).parent / "restorer"
"""The conditioner of the default restorer, on the embedded backbone (configs/default.yaml)."""

EMBEDDED_PAPER = Path(__file__).parent / "paper"
"""The conditioner of the paper's set-up in the small, on the embedded backbone (configs/embedded/paper.yaml)."""

NAMED = {"embedded": EMBEDDED_RESTORER, "paper": EMBEDDED_PAPER}
"""Names that stand for the folders of restorers that come with the package; write ./paper for a folder of one's own."""
