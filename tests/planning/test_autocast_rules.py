"""Rules of the simulated GPU's autocast, against the header of the installed PyTorch."""

import re
from pathlib import Path

import pytest
import torch

from mimdit.planning import autocast_rules

HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
RULES = {
    "AT_FORALL_LOWER_PRECISION_FP": autocast_rules.LOWER,
    "AT_FORALL_FP32": autocast_rules.SINGLE,
    "AT_FORALL_FP32_SET_OPT_DTYPE": autocast_rules.SINGLE_UNLESS_GIVEN,
    "AT_FORALL_PROMOTE": autocast_rules.PROMOTED,
}


def in_header(macro: str) -> set[str]:
    """Return the operators of a list in the header, with their overloads."""
    (body,) = re.findall(rf"#define {macro}\(_\)((?:.*\\\n)*.*\n)", HEADER.read_text())
    names = re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", body)
    return {f"{name}.{overload}" if overload else name for name, overload in names}


ELSEWHERE = {"norm.Scalar", "norm.ScalarOpt_dim"}
"""Operators that the header lists by another macro, of other arguments."""


@pytest.mark.parametrize("macro", RULES)
def test_the_rules_are_those_of_pytorch(macro):
    recurrent = {name for name in in_header(macro) if name.endswith("_cell")}
    assert set(RULES[macro]) - ELSEWHERE == in_header(macro) - recurrent
