"""Stacked layers against one layer at a time."""

import pytest
import torch
import torch.nn.functional as F

from mimdit.conditioner.dispatch import Rows
from mimdit.conditioner.stacked import StackedDepthwise, StackedPointwise, pick

B, K, E = 3, 2, 4
INDICES = torch.tensor([[2, 0], [1, 1], [0, 2]])  # one sub-expert twice, one not at all
WAYS = {"gather": Rows.in_order(INDICES), "grouped": Rows.sort(INDICES, E)}


def images(channels, batch=B):
    return torch.randn(batch, channels, 5, 7, generator=torch.Generator().manual_seed(0))


def pairs(rows):
    """Row, image and sub-expert of each pair."""
    places = torch.arange(B * K) if rows.sorting is None else rows.sorting.places_R
    return [(int(places[b * K + k]), b, k, int(INDICES[b, k])) for b in range(B) for k in range(K)]


@pytest.mark.parametrize("rows", WAYS.values(), ids=WAYS)
def test_fan_out_gives_each_chosen_layer_the_whole_image(rows):
    layer = StackedPointwise(E, 4, 8)
    output = layer.fan_out(images(4), rows)
    for row, b, _, expert in pairs(rows):
        torch.testing.assert_close(output[row], F.conv2d(images(4)[b], layer.weight_EOI[expert][:, :, None, None]))


@pytest.mark.parametrize("rows", WAYS.values(), ids=WAYS)
def test_fan_in_sums_the_chosen_layers_times_their_gates(rows):
    layer, gates, hidden = StackedPointwise(E, 4, 8), torch.rand(B, K), images(4, B * K)
    expected = torch.zeros(B, 8, 5, 7)
    for row, b, k, expert in pairs(rows):
        expected[b] += gates[b, k] * F.conv2d(hidden[row], layer.weight_EOI[expert][:, :, None, None])
    torch.testing.assert_close(layer.fan_in(hidden, rows, gates), expected)


@pytest.mark.parametrize("rows", WAYS.values(), ids=WAYS)
def test_depthwise_filters_each_row_by_its_sub_expert(rows):
    layer, hidden = StackedDepthwise(E, 4), images(4, B * K)
    output = layer(hidden, rows)
    for row, _, _, expert in pairs(rows):
        torch.testing.assert_close(output[row], F.conv2d(hidden[row], layer.weight[expert], padding=1, groups=4))


def test_the_fold_of_accelerators_filters_as_that_of_cpus():
    layer, hidden, rows = StackedDepthwise(E, 4), images(4, B * K), WAYS["gather"]
    torch.testing.assert_close(layer._folded(hidden, pick(layer.weight, rows.indices_R)), layer(hidden, rows))


def test_gradients_of_the_gathered_product_are_those_of_finite_differences():
    layer, gates = StackedPointwise(E, 3, 2).double(), torch.rand(B, K, dtype=torch.float64, requires_grad=True)
    back = StackedPointwise(E, 2, 3).double()
    x = images(3).double()[..., :2, :2].requires_grad_()

    def function(x, gates, *weights):
        return back.fan_in(layer.fan_out(x, WAYS["gather"]), WAYS["gather"], gates)

    assert torch.autograd.gradcheck(function, (x, gates, layer.weight_EOI, back.weight_EOI))


def test_pick_is_indexing():
    stack = torch.randn(E, 3, 2)
    assert torch.equal(pick(stack, WAYS["gather"].indices_R), stack[INDICES.flatten()])
    assert torch.equal(pick(stack[:, 0, 0], WAYS["gather"].indices_R), stack[INDICES.flatten(), 0, 0])


@pytest.mark.parametrize("fan_in", [3, 48])
def test_a_fresh_layer_keeps_the_scale_of_its_input(fan_in):
    layer = StackedPointwise(2, fan_in, 64)
    x = torch.randn(8, fan_in, 16, 16, generator=torch.Generator().manual_seed(0))
    spread = layer.fan_out(x, Rows.in_order(torch.zeros(8, 1, dtype=torch.long))).std()
    assert 0.4 < spread < 0.8  # uniform(-1, 1) / sqrt(fan_in): 1 / sqrt(3)
