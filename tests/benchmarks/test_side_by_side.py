"""Two revisions side by side: what counts as equal, and what is said of a difference."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/side_by_side.py"
ONE = np.array([1.0, -4.0], np.float32)


@pytest.fixture(scope="module")
def compare():
    return runpy.run_path(str(SCRIPT))["compare"]


def test_equal_bytes_are_no_difference(compare):
    assert compare({"a": ONE, "keys": np.array(["x"])}, {"keys": np.array(["x"]), "a": ONE.copy()}) == {}


def test_one_bit_is_a_difference_and_its_size_is_told(compare):
    other = np.nextafter(ONE, np.float32(np.inf), dtype=np.float32)
    found = compare({"a": ONE}, {"a": other})["a"]
    absolute = float(np.abs(other.astype(np.float64) - ONE).max())
    assert found == {"reason": "other values", "absolute": absolute, "relative": absolute / 4}


def test_zeros_of_another_sign_words_types_shapes_and_missing_values_are_differences(compare):
    before = {"zero": np.zeros(1), "key": np.array(["a"]), "type": ONE, "shape": ONE, "gone": ONE}
    after = {"zero": -np.zeros(1), "key": np.array(["b"]), "type": ONE.astype(np.float64), "shape": ONE[None], "new": ONE}
    reasons = {name: difference["reason"] for name, difference in compare(before, after).items()}
    assert reasons == {
        "zero": "other values",
        "key": "other values",
        "type": "float32[2] became float64[2]",
        "shape": "float32[2] became float32[1, 2]",
        "gone": "only before",
        "new": "only after",
    }


def test_an_unknown_revision_is_an_error():
    done = subprocess.run([sys.executable, str(SCRIPT), "no-such-revision", "."], capture_output=True, text=True)
    assert done.returncode == 1 and "no-such-revision is no revision" in done.stderr
