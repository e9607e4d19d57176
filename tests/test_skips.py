"""Skips where nothing may be skipped: tests/conftest.py and the list it reads."""

import fnmatch
import re
from pathlib import Path

import pytest

from tests.conftest import allowed_skips, fail_if_skipped

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
