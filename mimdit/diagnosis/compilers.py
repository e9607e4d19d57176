"""Compilers that a training on CUDA calls while it runs: without them a job dies in its first backward pass."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from importlib import metadata, util
from pathlib import Path

import torch

from mimdit.diagnosis.finding import Finding


def check_compilers() -> list[Finding]:
    """Check for a C compiler, Triton and NVRTC on a machine with CUDA; return nothing elsewhere.

    PyTorch compiles kernels of the backward pass while it runs: Triton ones, which a C compiler links, even where nothing is compiled by
    ``torch.compile``; and NVRTC ones for some functions of `torch.special`.
    """
    if not torch.cuda.is_available():
        return []
    found = {"C compiler": _c_compiler(), "Triton": _triton(), "NVRTC": _nvrtc()}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        remedy = "load a compiler (module load gcc; apt install gcc) or set CC, and reinstall torch with its triton and nvidia-cuda-nvrtc"
        return [Finding.failed("compilers", f"{', '.join(missing)} not found, which the backward pass needs on CUDA", remedy)]
    return [Finding.ok("compilers", ", ".join(f"{name} {place}" for name, place in found.items()))]


def _c_compiler() -> str | None:
    """Return the path of the compiler that Triton would call."""
    named = os.environ.get("CC")
    return shutil.which(named) if named else shutil.which("gcc") or shutil.which("clang")


def _triton() -> str | None:
    return metadata.version("triton") if util.find_spec("triton") is not None else None


def _nvrtc() -> str | None:
    """Return the file of NVRTC: in PyTorch's packages, or the system's."""
    packages = Path(torch.__file__).parents[1]
    bundled = sorted([*packages.glob("nvidia/*/lib/libnvrtc.so*"), *packages.glob("torch/lib/libnvrtc*.so*")])
    return bundled[0].name if bundled else ctypes.util.find_library("nvrtc")
