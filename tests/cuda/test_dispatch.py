"""Sub-experts on CUDA, gathered and in grouped products, against each one computed by itself on the CPU."""

import copy

import pytest
import torch

from mimdit.conditioner.dispatch import is_grouped
from mimdit.conditioner.intra_moe import IntraMoE
from mimdit.routing.router import decide
from tests.conditioner.dense_reference import dense_intra_moe
from tests.cuda.devices import DEVICE, assert_near, moved
from tests.tiny_models import randomize

pytestmark = pytest.mark.cuda

EXPERTS, DIM, HIDDEN, IMAGES = 6, 16, 16, 5
BOUNDS = {"fp32": 5e-5, "bf16": 0.06}
KINDS = ("spatial", "channel", "swin", "se")


def logits():
    """Of top-2 gates that leave the last two of six sub-experts without an image."""
    values = torch.randn(IMAGES, EXPERTS, generator=torch.Generator().manual_seed(0))
    values[:, -2:] = -20.0
    return values


def made(kind, dispatch):
    moe = IntraMoE(kind, DIM, HIDDEN, EXPERTS, top_k=2, dispatch=dispatch)
    randomize(moe, 0, scale=0.3)
    generator = torch.Generator().manual_seed(1)
    images, direction = torch.randn(2, IMAGES, DIM, 16, 16, generator=generator)
    return moe, images, direction


def answers(images, gate_logits, direction, experts, output):
    output.backward(direction.to(output.dtype))
    found = {"output": output, "images": images.grad, "logits": gate_logits.grad}
    return found | {name: parameter.grad for name, parameter in experts.named_parameters()}


def reference(kind):
    moe, images, direction = made(kind, "gather")
    images, gate_logits = images.requires_grad_(), logits().requires_grad_()
    output = dense_intra_moe(kind, moe.experts, images, decide(gate_logits, 2).weights)
    return answers(images, gate_logits, direction, moe.experts, output)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_a_loop_over_experts(kind, dispatch, precision):
    moe, images, direction = moved(made(kind, dispatch))
    images, gate_logits = images.requires_grad_(), moved(logits()).requires_grad_()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
        output, _ = moe(images, None, decide(gate_logits, 2))
    found = answers(images, gate_logits, direction, moe.experts, output)
    for name, parameter in moe.experts.named_parameters():
        assert not parameter.grad[-2:].any() and parameter.grad[:-2].any(), name
    assert_near(found, reference(kind), BOUNDS[precision])


def test_auto_groups_bf16_on_hopper_and_gathers_elsewhere():
    hopper = DEVICE.type == "cuda" and torch.cuda.get_device_capability()[0] == 9
    bf16, fp32 = (torch.zeros(1, 16, device=DEVICE, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    assert is_grouped("auto", bf16, (16, 8)) == hopper and not is_grouped("auto", fp32, (16, 8))
    assert not is_grouped("auto", bf16, (16, 6))


def test_the_same_sum_twice_is_the_same_to_the_bit():
    """Gradients summed over an expert's rows in a fixed order: without it a resumed run would differ from an uninterrupted one."""
    moe, images, direction = moved(made("channel", "gather"))
    found = []
    for _ in range(2):
        again = copy.deepcopy(moe)
        output, _ = again(images, None, decide(moved(logits()), 2))
        output.backward(direction)
        found.append({name: parameter.grad for name, parameter in again.experts.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in ("qkv.weight_EOI", "out.weight_EOI"))
