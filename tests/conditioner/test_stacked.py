"""Stacked layers against one layer at a time."""

import pytest
import torch
import torch.nn.functional as F

from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise

INDICES = torch.tensor([[2, 0], [1, 1], [0, 2]])


def images(channels):
    return torch.randn(3, channels, 5, 7, generator=torch.Generator().manual_seed(0))


def test_fan_out_gives_each_chosen_layer_the_whole_input():
    layer = StackedPointwise(3, 4, 6)
    output = layer.fan_out(images(4), INDICES).unflatten(1, (2, 6))
    for b, k in ((b, k) for b in range(3) for k in range(2)):
        expected = F.conv2d(images(4)[b], layer.weight_EOI[INDICES[b, k]][:, :, None, None])
        torch.testing.assert_close(output[b, k], expected)


def test_fan_in_sums_the_chosen_layers_times_their_gates():
    layer, gates = StackedPointwise(3, 4, 6), torch.rand(3, 2)
    x = images(8).unflatten(1, (2, 4))
    output = layer.fan_in(x.flatten(1, 2), INDICES, gates)
    for b in range(3):
        expected = sum(gates[b, k] * F.conv2d(x[b, k], layer.weight_EOI[INDICES[b, k]][:, :, None, None]) for k in range(2))
        torch.testing.assert_close(output[b], expected)


def test_depthwise_filters_each_sub_experts_own_channels():
    layer = StackedDepthwise(3, 4)
    x = images(8).unflatten(1, (2, 4))
    output = layer(x.flatten(1, 2), INDICES).unflatten(1, (2, 4))
    for b, k in ((b, k) for b in range(3) for k in range(2)):
        torch.testing.assert_close(output[b, k], F.conv2d(x[b, k], layer.weight[INDICES[b, k]], padding=1, groups=4))


@pytest.mark.parametrize("fan_in", [3, 48])
def test_a_fresh_layer_keeps_the_scale_of_its_input(fan_in):
    layer = StackedPointwise(2, fan_in, 64)
    x = torch.randn(8, fan_in, 16, 16, generator=torch.Generator().manual_seed(0))
    spread = layer.fan_out(x, torch.zeros(8, 1, dtype=torch.long)).std()
    assert 0.4 < spread < 0.8  # uniform(-1, 1) / sqrt(fan_in): 1 / sqrt(3)
