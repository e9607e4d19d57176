"""Devices by name."""

import pytest
import torch

from mimdit.core.devices import device_named


def test_a_device_that_is_there_is_found_by_its_name():
    assert device_named("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("there", "expected"), [(None, "cpu"), (torch.device("cuda", 1), "cuda:1")])
def test_auto_is_the_accelerator_or_else_the_cpu(there, expected, monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: there if check_available else torch.device("xpu")
    )
    assert device_named("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "npu"])
def test_others_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used here \(.+\); give auto or cpu"):
        device_named(name)
