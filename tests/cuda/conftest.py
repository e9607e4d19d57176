"""Exact fp32 on the device, as the CPU computes it: TF32 would hide errors behind its rounding."""

import pytest
import torch


@pytest.fixture(autouse=True)
def without_tf32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
