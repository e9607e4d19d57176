"""Experts inside the transformer on CUDA, in grouped products and one by one, against the CPU."""

import copy

import pytest
import torch
from torch import nn

from mimdit.backbone import InnerExperts
from mimdit.backbone.inner_experts import is_expert
from tests.cuda.devices import DEVICE, assert_near, moved
from tests.tiny_models import tiny_backbone

pytestmark = pytest.mark.cuda

BOUNDS = {"fp32": 2e-4, "bf16": 0.06}


def learned(dispatch: str):
    backbone = tiny_backbone(moe=InnerExperts(every=1, num_experts=6, dispatch=dispatch))
    for index, (name, weight) in enumerate(backbone.named_parameters()):
        if is_expert(name):
            nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(index))
    with torch.no_grad():
        for block in backbone.transformer.transformer_blocks:  # clear decisions, which rounding does not change, and two idle experts
            block.ff.experts.router.linear.weight.zero_()
            block.ff.experts.router.linear.bias.copy_(torch.tensor([2.0, 1.5, 1.0, 0.5, -9.0, -9.0]))
    return backbone


def answers(backbone, device: torch.device, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    latents = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype is not None):
        velocity = backbone.velocity(latents, torch.tensor([0.2, 0.9], device=device))
    velocity.float().square().mean().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters() if is_expert(name) and ".weight_" in name}
    return {"velocity": velocity.float()} | gradients


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("dispatch", ["auto", "grouped", "loop"])
def test_outputs_and_gradients_are_those_of_the_cpu(dispatch, precision):
    backbone = learned("loop")
    expected = answers(copy.deepcopy(backbone), torch.device("cpu"), None)
    on_device = moved(learned(dispatch))
    found = answers(on_device, DEVICE, torch.bfloat16 if precision == "bf16" else None)
    assert_near(found, expected, BOUNDS[precision])
