"""Processes that use no instructions beyond the libraries' baselines, so that pixels do not depend on the processor.

The last bit of some pixels does: NumPy's float32 ``exp`` (haze) and OpenCV's ``filter2D`` (blur, raindrops) round otherwise with AVX2 or
AVX-512 than without.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
PLAIN = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(np._core._multiarray_umath.__cpu_dispatch__),
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX,SSE4.2,SSE4.1",
    "OPENCV_IPP": "disabled",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable,-FMA4_Usable",
    "OMP_NUM_THREADS": "1",
}
"""Environment of such a process."""


def printed(module: str, *arguments: str) -> Any:
    """Return the JSON that a module prints in a plain process."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env={**os.environ, **PLAIN, "PYTHONPATH": path}, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
