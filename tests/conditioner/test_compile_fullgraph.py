"""Every block compiles as one graph, forward and backward, and computes what it computes by itself."""

import pytest
import torch

from tests.tiny_models import ARCHITECTURE, PIXART, randomize, tiny_backbone, tiny_conditioner

pytestmark = pytest.mark.long


def compiled(block: torch.nn.Module) -> None:
    torch._dynamo.reset()
    block.compile(fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
@pytest.mark.parametrize("options", [{}, {"moe_stride": 2, "moe_dim": 16, "feed_forward": "conv"}, {"intra": "dense", "inter": "sparse"}])
def test_mim_blocks(options, dispatch):
    sizes = {"num_blocks": 2, "num_layers": 4, "dim": 16, "groups": ["spatial", "channel", "swin", "se"]}
    conditioner = tiny_conditioner(dispatch=dispatch, **sizes | options)
    randomize(conditioner, 0)
    latents = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grouped = dispatch == "grouped"  # which PyTorch compiles only in bf16
    with torch.autocast("cpu", torch.bfloat16, enabled=grouped):
        expected = conditioner(latents).residuals
        for block in conditioner.blocks:
            compiled(block)
        found = conditioner(latents).residuals
    bounds = {"rtol": 0.05, "atol": 0.1} if grouped else {"rtol": 1e-4, "atol": 1e-5}
    for one, other in zip(found, expected):
        torch.testing.assert_close(one.float(), other.float(), **bounds)
    sum(residual.square().sum() for residual in found).backward()
    assert all(parameter.grad is not None for block in conditioner.blocks for parameter in block.parameters())


@pytest.mark.parametrize("architecture", [ARCHITECTURE, PIXART], ids=["sd3", "pixart"])
def test_transformer_blocks(architecture):
    backbone = tiny_backbone(architecture=architecture)
    latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sigma = torch.tensor([0.2, 0.7])
    expected = backbone.velocity(latents, sigma)
    for block in backbone.transformer.transformer_blocks:
        compiled(block)
    found = backbone.velocity(latents, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), latents)
    assert gradient.abs().sum() > 0
