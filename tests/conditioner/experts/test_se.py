"""Squeeze-and-excitation experts."""

import torch

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.experts import SqueezeExcitation


def test_the_gate_of_a_channel_reads_the_whole_image():
    expert = SqueezeExcitation(4, 4, 1)
    images = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = expert(images, Rows.in_order(torch.zeros(1, 1, dtype=torch.long)), torch.ones(1, 1))
    gradient = torch.autograd.grad(output[0, :, 0, 0].sum(), images)[0]
    assert gradient[..., -1, -1].abs().sum() > 0


def test_without_excitation_it_is_the_gated_filter_itself():
    expert = SqueezeExcitation(4, 4, 1)
    images, chosen = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Rows.in_order(torch.zeros(1, 1, dtype=torch.long))
    with torch.no_grad():
        expert.excite_EOI.zero_()  # 2 * sigmoid(0) = 1
    value, gate = expert.local(expert.into.fan_out(images, chosen), chosen).chunk(2, dim=1)
    torch.testing.assert_close(expert(images, chosen, torch.ones(1, 1)), expert.out.fan_in(value * gate, chosen, torch.ones(1, 1)))
