"""The MiM block and its parts."""

import pytest
import torch
import torch.nn.functional as F

from mimdit.conditioner.inter_moe import InterMoE
from mimdit.conditioner.mim_block import ChannelNorm, ConvFeedForward, FeedForward, MiMBlock
from mimdit.routing.router import router_features
from tests.tiny_models import randomize


def images(channels=6):
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_channel_norm_is_torchs_rms_norm_at_every_position():
    norm = ChannelNorm(6)
    randomize(norm, 0, scale=1.0)
    expected = F.rms_norm(images().permute(0, 2, 3, 1), (6,), norm.scale.flatten(), eps=1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(norm(images()), expected)


def test_channel_norm_keeps_the_type_and_sums_in_fp32():
    half = (images() * 1000).half()
    assert ChannelNorm(6)(half).dtype == torch.float16
    torch.testing.assert_close(ChannelNorm(6)(half).float(), ChannelNorm(6)(half.float()), rtol=2e-3, atol=2e-3)


def test_block_is_two_shortcuts_and_its_gates_read_unnormalized_states():
    block = MiMBlock(6, InterMoE(6, 4, num_experts=3))
    randomize(block, 0)
    output, inter, intra, features = block(images())
    torch.testing.assert_close(features, router_features(images()))
    fused, expected_inter, expected_intra = block.inter_moe(block.norm1(images()), router_features(images()))
    middle = images() + fused
    torch.testing.assert_close(output, middle + block.feed_forward(block.norm2(middle)))
    assert torch.equal(inter.logits, expected_inter.logits) and torch.equal(intra.logits, expected_intra.logits)


def test_experts_on_a_pooled_grid_read_means_and_their_output_is_interpolated():
    block, x = MiMBlock(6, InterMoE(6, 4, num_experts=3), moe_stride=2), images().repeat(1, 1, 2, 2)
    randomize(block, 0)
    output, inter, _, features = block(x)
    torch.testing.assert_close(features, router_features(x))
    normed = F.rms_norm(x.permute(0, 2, 3, 1), (6,), block.norm1.scale.flatten(), eps=1e-6).permute(0, 3, 1, 2)
    pooled = normed.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean(dim=(3, 5))
    fused, expected_inter, _ = block.inter_moe(pooled, router_features(x))
    middle = x + F.interpolate(fused, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(output, middle + block.feed_forward(block.norm2(middle)), rtol=1e-4, atol=1e-4)
    assert torch.equal(inter.logits, expected_inter.logits)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_coarse_grid_mixes_the_positions_under_it_and_expands_them_again(stride):
    experts = InterMoE(10, 4, num_experts=3, num_features=12)
    block, x = MiMBlock(6, experts, moe_stride=stride, moe_dim=10), images().repeat(1, 1, 4, 4)
    randomize(block, 0)
    output, inter, _, features = block(x)
    grid, normed = block.coarse, block.norm1(x)
    torch.testing.assert_close(features, router_features(x))  # the gates read the fine grid
    cells = normed.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))  # [B, C, H/s, s, W/s, s]
    coarse = torch.einsum("bchywx,dcyx->bdhw", cells, grid.down.weight) + grid.down.bias[:, None, None]
    fused, expected_inter, _ = experts(coarse, router_features(x))
    coarse = coarse + fused
    coarse = coarse + grid.feed_forward(grid.norm(coarse))
    drawn = torch.einsum("bdhw,edij->behw", coarse, grid.up.weight) + grid.up.bias[:, None, None]
    fine = drawn.unflatten(1, (6, stride, stride)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    middle = x + fine
    torch.testing.assert_close(output, middle + block.feed_forward(block.norm2(middle)), rtol=1e-4, atol=1e-3)
    assert torch.equal(inter.logits, expected_inter.logits)


def test_a_convolutional_feed_forward_is_two_filters_around_a_relu():
    layer = ConvFeedForward(6, 2.0)
    randomize(layer, 0)
    inner = F.conv2d(images(), layer.into.weight, layer.into.bias, padding=1).clamp_min(0)
    torch.testing.assert_close(layer(images()), F.conv2d(inner, layer.out.weight, layer.out.bias, padding=1))
    assert inner.shape[1] == 12


def test_a_convolutional_feed_forward_sees_two_positions_far_and_no_further():
    layer, x = ConvFeedForward(6, 4.0), images().requires_grad_()
    randomize(layer, 0)  # each position around the middle has channels that pass the ReLU
    gradient = torch.autograd.grad(layer(x)[0, :, 4, 4].sum(), x)[0][0].abs().sum(0)
    reached = torch.zeros(8, 8, dtype=torch.bool)
    reached[2:7, 2:7] = True
    assert torch.equal(gradient > 0, reached)


def test_feed_forward_is_its_three_convolutions_around_a_gate():
    layer = FeedForward(6, 2.0)
    value, gate = layer.local(layer.into(images())).chunk(2, dim=1)
    torch.testing.assert_close(layer(images()), layer.out(value * gate))


@pytest.mark.parametrize("expansion", [1.0, 2.0])
def test_feed_forward_sees_eight_neighbors_and_no_further(expansion):
    layer, x = FeedForward(6, expansion), images().requires_grad_()
    gradient = torch.autograd.grad(layer(x)[0, :, 4, 4].sum(), x)[0][0].abs().sum(0)
    reached = torch.zeros(8, 8, dtype=torch.bool)
    reached[3:6, 3:6] = True
    assert torch.equal(gradient > 0, reached)
    assert layer.out.weight.shape[1] == 6 * expansion
