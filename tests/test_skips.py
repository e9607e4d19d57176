"""Skips where nothing may be skipped: tests/conftest.py and the list it reads."""

import fnmatch
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import allowed_skips, fail_if_skipped, pytest_collection_modifyitems

REPOSITORY = Path(__file__).parent.parent


def skipped(nodeid: str) -> pytest.TestReport:
    return pytest.TestReport(nodeid, ("file", 1, None), {}, "skipped", ("file", 1, "Skipped: no tool"), "setup")


def test_a_skip_that_the_list_does_not_name_fails_with_the_remedy():
    report = skipped("tests/test_flow.py::test_path")
    fail_if_skipped(report, strict=True)
    assert report.failed and "Skipped: no tool" in report.longrepr and "allowed_skips.txt" in report.longrepr


@pytest.mark.parametrize("pattern", allowed_skips())
def test_the_list_names_tests_that_exist_each_with_a_reason(pattern):
    file, _, name = pattern.partition("::")
    names = re.findall(r"^def (test_\w+)", (REPOSITORY / file).read_text(), re.MULTILINE)
    assert fnmatch.filter(names, name) and len(allowed_skips()[pattern]) > 10
    report = skipped(f"{file}::{fnmatch.filter(names, name)[0]}")
    fail_if_skipped(report, strict=True)
    assert report.skipped


def test_elsewhere_skips_stay_skips_and_expected_failures_are_none():
    report = skipped("tests/test_flow.py::test_path")
    fail_if_skipped(report, strict=False)
    assert report.skipped
    report.wasxfail = "known"
    fail_if_skipped(report, strict=True)
    assert report.skipped


def test_every_test_of_the_cuda_folder_is_marked_and_listed():
    files = sorted((REPOSITORY / "tests/cuda").glob("test_*.py"))
    assert files and all("\npytestmark = pytest.mark.cuda\n" in file.read_text() for file in files)
    listed = {pattern for pattern in allowed_skips() if pattern.startswith("tests/cuda/")}
    assert listed == {f"tests/cuda/{file.name}::*" for file in files}


def test_a_test_for_cuda_is_skipped_only_without_a_device(monkeypatch):
    for available, device, skipped in ((False, "cuda", True), (True, "cuda", False), (False, "cpu", False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.setenv("MIMDIT_TEST_DEVICE", device)
        added = []
        item = SimpleNamespace(get_closest_marker=lambda name: name == "cuda", add_marker=added.append)
        pytest_collection_modifyitems([item])
        assert [mark.kwargs["reason"] for mark in added] == ["needs a CUDA device"] * skipped
