"""Kernels of a step, against closed forms and the project's other counter of operations."""

import pytest
import torch

from mimdit.planning.fake_step import Settings, count
from mimdit.planning.kernels import Kernel, KernelCounter
from mimdit.planning.model_shapes import Data
from mimdit.planning.simulated_gpu import ShapesOnly
from mimdit.training.flops import training_flops
from tests.tiny_models import tiny_batch, tiny_restorer


def test_a_product_reads_its_operands_and_writes_its_result():
    with KernelCounter("cpu") as counter:
        torch.ones(4, 8) @ torch.ones(8, 16)
    kernel = Kernel("mm", "single", 2 * 4 * 8 * 16, 4 * (4 * 8 + 8 * 16 + 4 * 16))
    assert counter.found[kernel] == 1 and counter.flops == kernel.flops


def test_views_start_no_kernel():
    tensor = torch.ones(4, 8)
    with KernelCounter("cpu") as counter:
        tensor.t().reshape(4, 8, 1)[2]
        tensor.view(32)
    assert {kernel.name for kernel in counter.found} == {"clone"} and counter.views >= 3  # `reshape` of what is not contiguous copies


def test_a_value_that_the_host_reads_is_a_wait():
    with ShapesOnly(), KernelCounter("cpu") as counter:
        assert torch.ones(()).item() == 1
    assert counter.waits == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_operations_are_those_of_the_other_counter(checkpointing):
    options = {"backbone": {"checkpointing": checkpointing}, "conditioner": {"checkpointing": checkpointing}}
    with torch.device("meta"):
        shapes = tiny_restorer(**options)
    shapes.log = shapes.log_dict = lambda *args, **options: None
    counted = count(shapes, Data(2, 16, False), Settings("cpu", "32-true", None))
    expected = training_flops(tiny_restorer(**options), tiny_batch(2, 16)).total
    assert counted.flops == pytest.approx(expected, rel=0.01)
