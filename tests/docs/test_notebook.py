"""The notebook of the documentation: it runs, and its stored outputs are those of today's code and weights."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "start" / "notebook.ipynb"
REMEDY = "execute it again: .venv/bin/jupyter execute --inplace docs/start/notebook.ipynb"


def stored_text(cell: dict) -> str:
    return "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d", text)]


def test_it_runs_and_its_outputs_are_those_that_are_stored():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells), REMEDY
    namespace, printed = {}, []
    for cell in cells:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec("".join(cell["source"]), namespace)
        printed.append(out.getvalue())
    for text, cell in zip(printed, cells):
        assert numbers(text) == pytest.approx(numbers(stored_text(cell)), abs=0.5), REMEDY
    assert namespace["psnr"](namespace["restored"]) > namespace["psnr"](namespace["dark"])
