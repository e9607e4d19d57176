"""The quickstart's validation and test pairs are frozen: figures of all times are on the same pixels.

The last bit of some pixels depends on the processor: NumPy's float32 ``exp`` (haze) and OpenCV's ``filter2D`` (blur, raindrops) round
otherwise with AVX2 than without, 40 of 672 images differ. So pixels are hashed in a process in which NumPy, OpenCV and the C library keep
to what every x86-64 processor that NumPy supports has (`PLAIN`); there the digests must hold on each of them. The digests of all pairs
take half a minute, hence the daily test is on one draw of every photograph in every group.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datamodules.synthetic.frozen_pixels import frozen_folders, recipes_digest

REPOSITORY = Path(__file__).parents[3]
FROZEN = json.loads((REPOSITORY / "tests" / "data" / "frozen_quickstart.json").read_text())
PLAIN = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(np._core._multiarray_umath.__cpu_dispatch__),
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,SSE4.2,SSE4.1",
    "OPENCV_IPP": "disabled",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable,-FMA4_Usable",
    "OMP_NUM_THREADS": "1",
}
"""Environment of a process that uses no instructions beyond the libraries' baselines."""


def pixels(draws: str) -> dict:
    """Return the digests that a plain process prints."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "tests.datamodules.synthetic.frozen_pixels", draws]
    done = subprocess.run(command, env={**os.environ, **PLAIN, "PYTHONPATH": path}, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_recipes_are_those_of_always(split):
    recipes = frozen_folders()[split]
    assert len(recipes) == FROZEN["pairs"][split]
    assert recipes_digest(recipes) == FROZEN["recipes_sha256"][split]


def test_pixels_of_one_draw_are_those_of_always():
    assert pixels("one") == FROZEN["pixels_sha256"]["one"]


@pytest.mark.long
def test_pixels_of_all_draws_are_those_of_always():
    assert pixels("all") == FROZEN["pixels_sha256"]["all"]
