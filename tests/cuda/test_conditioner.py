"""The conditioner on CUDA: as on the CPU, under autocast, compiled."""

import copy

import pytest
import torch

from tests.cuda.devices import DEVICE, assert_near, gradients, moved
from tests.tiny_models import randomize, tiny_backbone, tiny_conditioner

pytestmark = pytest.mark.cuda

OPTIONS = {
    "dim": 16, "hidden": 16, "num_blocks": 2, "num_layers": 4, "num_experts": 4, "estimate": True, "tone_powers": [0, 1],
    "identify": True, "confidence": True,
}  # fmt: skip


def made(**options):
    conditioner = tiny_conditioner(**OPTIONS | options)
    randomize(conditioner, 0)
    conditioner.timestep_scale.requires_grad_(False)
    return conditioner


def latents(height=16, width=32, batch=3):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def answers(conditioner, inputs, routing=None, precision="fp32"):
    """All outputs, and the gradients of all weights that a loss of all outputs reaches."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
        said = conditioner(inputs, routing, reroute=[])
    loss = sum(residual.float().square().mean() for residual in said.residuals) + said.estimate.square().mean()
    loss = loss + said.identified.square().mean() + said.rerouted.intra.probs.square().sum() + said.rerouted.inter.probs[..., 0].sum()
    loss.backward()
    found = {f"residual {number}": residual for number, residual in enumerate(said.residuals)}
    return found | {"estimate": said.estimate, "identified": said.identified} | gradients(conditioner), said.routing.detach()


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
def test_outputs_and_gradients_are_those_of_the_cpu(dispatch):
    conditioner = made()
    expected, routing = answers(copy.deepcopy(conditioner), latents())
    found, decided = answers(moved(made(dispatch=dispatch)), moved(latents()))
    assert torch.equal(decided.intra.indices.cpu(), routing.intra.indices)
    assert_near(found, expected, 1e-3)


def test_under_autocast_it_is_near_the_cpu_in_fp32_and_its_gradients_are_fp32():
    """With the CPU's gates: rounding may not decide between two sub-experts here."""
    expected, routing = answers(made(), latents())
    conditioner = moved(made())
    found, _ = answers(conditioner, moved(latents()), moved(routing), "bf16")
    assert all(parameter.grad.dtype == torch.float32 for parameter in conditioner.parameters() if parameter.grad is not None)
    outputs = [name for name in expected if name.startswith(("residual", "estimate"))]
    assert_near({name: found[name] for name in outputs}, {name: expected[name] for name in outputs}, 0.1)
    assert all(value.isfinite().all() for value in found.values())


def test_a_compiled_mim_block_is_one_graph_with_the_same_output_and_gradients_in_bf16():
    plain, compiled = (moved(made(num_blocks=1, dispatch="grouped")) for _ in range(2))
    compiled.blocks[0].compile(fullgraph=True)
    _, routing = answers(copy.deepcopy(plain), moved(latents()))
    expected, _ = answers(plain, moved(latents()), routing, "bf16")
    found, _ = answers(compiled, moved(latents()), routing, "bf16")
    assert_near(found, expected, 0.1)


def test_a_compiled_transformer_block_is_one_graph_with_the_same_output_and_gradients():
    plain, compiled = (moved(tiny_backbone()) for _ in range(2))
    compiled.transformer.transformer_blocks[0].compile(fullgraph=True)
    found = []
    for backbone in (plain, compiled):
        noisy = moved(latents(16, 16)).requires_grad_()
        velocity = backbone.velocity(noisy, torch.linspace(0.1, 0.9, 3, device=DEVICE))
        velocity.square().mean().backward()
        found.append({"velocity": velocity, "latents": noisy.grad})
    assert_near(found[1], found[0], 1e-3)


def test_recomputed_activations_change_nothing():
    expected, _ = answers(moved(made()), moved(latents()))
    found, _ = answers(moved(made(checkpointing=True)), moved(latents()))
    assert_near(found, expected, 1e-4)
