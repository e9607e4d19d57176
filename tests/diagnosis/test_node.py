"""Checks of one node."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from mimdit.diagnosis import Level
from mimdit.diagnosis import software as software_checks
from mimdit.diagnosis.node import check_devices, check_folder, check_memory
from mimdit.diagnosis.software import code_checksum, unmet_requirements


def levels(findings) -> dict[str, Level]:
    return {finding.check: finding.level for finding in findings}


def test_a_folder_is_written_and_left_as_it_was(tmp_path):
    (finding,) = check_folder(tmp_path / "runs" / "mine")
    assert finding.level in (Level.OK, Level.WARNING) and f"{tmp_path} (for " in finding.found
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").is_dir(), reason="root writes everywhere but to /proc")
def test_a_folder_that_cannot_be_written_fails(tmp_path):
    (finding,) = check_folder(Path("/proc/self"))
    assert finding.level is Level.FAILED and "cannot be written" in finding.found
    (tmp_path / "file").write_text("")
    assert levels(check_folder(tmp_path / "file")) == {"folder": Level.FAILED}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are devices")
def test_devices_that_are_promised_and_not_there_are_a_failure(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert levels(check_devices()) == {"devices": Level.FAILED}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert levels(check_devices()) == {"devices": Level.WARNING}


def test_little_memory_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000_000 << 10))
    found = {finding.check: finding for finding in check_memory(shared=tmp_path / "none")}
    assert found["memory"].level is Level.WARNING and found["memory"].found == "1.9 GiB free"
    assert "shared memory" not in found and found["cores"].level is Level.OK


def test_requirements_are_those_of_the_package(monkeypatch):
    assert unmet_requirements() in ([], None)
    monkeypatch.setattr(software_checks.metadata, "requires", lambda package: ["torch>=99", "nothing-of-this-name", "b; extra == 'dev'"])
    assert [text.split()[0] for text in unmet_requirements()] == ["torch", "nothing-of-this-name"]
    assert unmet_requirements()[0].endswith(">=99 is needed")


def test_the_checksum_is_that_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(software_checks, "_ROOT", tmp_path)
    for package in ("mimdit", "datamodules", "callbacks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("1")
    before = code_checksum()
    (tmp_path / "mimdit" / "notes.txt").write_text("no code")
    assert code_checksum() == before
    (tmp_path / "mimdit" / "a.py").write_text("2")
    assert code_checksum() != before
