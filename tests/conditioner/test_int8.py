"""Experts whose weights are held in int8."""

import torch

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.int8 import Int8Pointwise, quantize_experts
from mimdit.conditioner.moe_conditioner import MoEConditioner
from mimdit.conditioner.stacked import StackedPointwise
from tests.tiny_models import randomize, tiny_conditioner

WEIGHT_EOI = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None]


def test_each_output_channel_is_off_by_half_a_step_of_its_own_at_most():
    held = Int8Pointwise(WEIGHT_EOI)
    step_EO1 = WEIGHT_EOI.abs().amax(dim=2, keepdim=True) / 127
    assert ((held.weight_EOI - WEIGHT_EOI).abs() <= step_EO1 * 0.5001).all() and held.quantized_EOI.dtype == torch.int8
    # The greatest weight of a channel is met exactly, and what int8 holds already is not changed any more.
    torch.testing.assert_close(held.weight_EOI.abs().amax(dim=2), WEIGHT_EOI.abs().amax(dim=2))
    torch.testing.assert_close(Int8Pointwise(held.weight_EOI).weight_EOI, held.weight_EOI)


def test_a_channel_of_zeros_stays_one():
    assert not Int8Pointwise(torch.zeros(1, 2, 3)).weight_EOI.any()


def test_it_works_as_the_layer_with_the_rounded_weights():
    held, plain = Int8Pointwise(WEIGHT_EOI), StackedPointwise(3, 8, 5)
    with torch.no_grad():
        plain.weight_EOI.copy_(held.weight_EOI)
    rows, images = Rows.in_order(torch.tensor([[2, 0], [1, 1]])), torch.randn(2, 8, 4, 4)
    assert torch.equal(held.fan_out(images, rows), plain.fan_out(images, rows))


def test_a_folder_keeps_them_in_int8_to_the_bit(tmp_path):
    conditioner = tiny_conditioner().eval()
    randomize(conditioner, 0)
    latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    conditioner.save_pretrained(tmp_path / "float")
    with torch.no_grad():
        exact = conditioner(latents).residuals[0]
    quantize_experts(conditioner)
    assert not any(type(module) is StackedPointwise for module in conditioner.modules())
    conditioner.save_pretrained(tmp_path / "int8")
    with torch.no_grad():
        ours, again = conditioner(latents), MoEConditioner.from_pretrained(tmp_path / "int8")(latents)
    for a, b in zip(ours.residuals, again.residuals, strict=True):
        assert torch.equal(a, b)
    assert 0 < (ours.residuals[0] - exact).abs().max() < 0.02 * exact.abs().max()
    sizes = [(tmp_path / name / "conditioner.safetensors").stat().st_size for name in ("int8", "float")]
    assert sizes[0] < sizes[1]
