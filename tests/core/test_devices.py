"""Devices by name."""

import pytest
import torch

from mimdit.core.devices import device_named


def test_a_device_that_is_there_is_found_by_its_name():
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto") == (torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu"))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "npu"])
def test_others_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=rf"device '{name}' cannot be used here \(.+\); give auto or cpu"):
        device_named(name)
