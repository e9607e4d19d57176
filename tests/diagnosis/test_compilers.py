"""Compilers that a training on CUDA needs, on made machines."""

import os

import pytest
import torch

from mimdit.diagnosis.compilers import check_compilers
from mimdit.diagnosis.finding import Level


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with CUDA, gcc, Triton and NVRTC."""
    compiler = tmp_path / "bin" / "gcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    library = tmp_path / "packages" / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.13"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setenv("PATH", str(compiler.parent))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "packages" / "torch" / "__init__.py"))
    monkeypatch.setattr("mimdit.diagnosis.compilers.metadata.version", lambda name: "3.6.0")
    monkeypatch.setattr("mimdit.diagnosis.compilers.util.find_spec", lambda name: object())
    return tmp_path


def test_all_are_named_where_they_are_found(machine):
    (finding,) = check_compilers()
    assert finding.level is Level.OK and "gcc" in finding.found and "Triton 3.6.0" in finding.found and "libnvrtc.so.13" in finding.found


@pytest.mark.parametrize("missing", ["C compiler", "Triton", "NVRTC"])
def test_what_is_missing_is_named_with_its_remedy(machine, monkeypatch, missing):
    if missing == "C compiler":
        os.remove(machine / "bin" / "gcc")
    elif missing == "Triton":
        monkeypatch.setattr("mimdit.diagnosis.compilers.util.find_spec", lambda name: None)
    else:
        os.remove(machine / "packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.13")
        monkeypatch.setattr("mimdit.diagnosis.compilers.ctypes.util.find_library", lambda name: None)
    (finding,) = check_compilers()
    assert finding.level is Level.FAILED and finding.found.startswith(f"{missing} not found") and "module load gcc" in finding.remedy


def test_a_compiler_named_by_cc_must_exist(machine, monkeypatch):
    monkeypatch.setenv("CC", "icc")
    assert check_compilers()[0].found.startswith("C compiler not found")


def test_without_cuda_nothing_is_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_compilers() == []
