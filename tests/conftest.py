"""Where CI=true or MIMDIT_NO_SKIPS=1 is set, a skipped test fails unless allowed_skips.txt names it with a reason.

Tests marked `cuda` are skipped on machines without a CUDA device. Every test begins with the same seed.
"""

import os
import random
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

STRICT = os.environ.get("CI") == "true" or os.environ.get("MIMDIT_NO_SKIPS") == "1"
LIST = Path(__file__).with_name("allowed_skips.txt")


def allowed_skips() -> dict[str, str]:
    """Patterns of test ids, each with the reason of its line."""
    lines = (line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return {pattern.strip(): reason.strip() for pattern, _, reason in (line.partition("  ") for line in lines)}


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, strict: bool = STRICT) -> None:
    """Turn a skip that the list does not name into a failure; an expected failure (xfail) is none."""
    if not strict or not report.skipped or hasattr(report, "wasxfail"):
        return
    if not any(fnmatchcase(report.nodeid, pattern) for pattern in allowed_skips()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        remedy = f"install what the test needs, or name it in tests/{LIST.name} with the reason"
        report.longrepr = f"{reason}\nNothing may be skipped here: {remedy}."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `cuda` where there is no CUDA device, unless MIMDIT_TEST_DEVICE=cpu tries them on the CPU."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked or os.environ.get("MIMDIT_TEST_DEVICE") == "cpu":
        return
    import torch  # takes seconds, and only these tests need it here

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed each test, so that its result depends neither on chance nor on the tests before it in its process."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report():
    report = yield
    fail_if_skipped(report)
    return report
