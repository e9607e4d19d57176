"""Output of a benchmark's figures."""

import json
from pathlib import Path

from mimdit.core.files import replace_when_whole


def write_figures(path: Path | str | None, figures: dict) -> None:
    """Write the measurements as JSON if ``--json`` names a file."""
    if path is None:
        return
    with replace_when_whole(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
