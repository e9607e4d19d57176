"""Inter-MoE: what its switches do, against plain sums over groups."""

import pytest
import torch

from mimdit.conditioner import InterMoE
from mimdit.routing.router import router_features
from tests.conditioner.dense_reference import dense_intra_moe, sparse_weights
from tests.tiny_models import randomize

B, C, E = 3, 6, 3


def run(seed=0, **options):
    moe = InterMoE(C, 4, num_experts=E, **options)
    randomize(moe, seed, scale=0.5)
    images = torch.randn(B, C, 16, 16, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.2, 1.0, 3.0])[:, None, None, None]
    features = router_features(images)
    return moe, images, features, *moe(images, features)


def plain_sum(moe, images, intra, group_weights):
    """Every group as its dense reference, times the group's weight."""
    kinds = ("spatial", "channel", "swin", "se")
    pairs = enumerate(zip(kinds, moe.groups, strict=True))
    outputs = [dense_intra_moe(kind, group.experts, images, intra.weights[g]) for g, (kind, group) in pairs]
    return sum(group_weights[:, g, None, None, None] * output for g, output in enumerate(outputs))


def softmax_gates(moe, features):
    return torch.nn.functional.linear(features, moe.router.linear.weight, moe.router.linear.bias).softmax(-1)


def test_dense_is_the_softmax_weighted_sum_of_all_groups():
    moe, images, features, output, inter, intra = run()
    weights = softmax_gates(moe, features)
    torch.testing.assert_close(inter.weights, weights)
    torch.testing.assert_close(output, plain_sum(moe, images, intra, weights), rtol=1e-4, atol=1e-4)
    for g, group in enumerate(moe.groups):
        logits = torch.nn.functional.linear(features, group.router.linear.weight, group.router.linear.bias)
        torch.testing.assert_close(intra.weights[g], sparse_weights(logits, 2))


def test_sparse_counts_only_the_most_probable_groups():
    moe, images, features, output, inter, intra = run(inter="sparse", inter_top_k=2)
    assert (inter.weights > 0).sum(dim=1).tolist() == [2] * B
    weights = sparse_weights(softmax_gates(moe, features).log(), 2)
    torch.testing.assert_close(output, plain_sum(moe, images, intra, weights), rtol=1e-4, atol=1e-4)


def test_uniform_weighs_all_groups_alike_and_has_no_gate_to_train():
    moe, images, _, output, inter, intra = run(inter="uniform")
    torch.testing.assert_close(inter.weights, torch.full((B, 4), 0.25))
    assert not any(parameter.requires_grad for parameter in moe.router.parameters())
    torch.testing.assert_close(output, plain_sum(moe, images, intra, inter.weights), rtol=1e-4, atol=1e-4)


def test_one_kind_four_times_makes_four_groups_with_weights_of_their_own():
    moe, *_ = run(groups=("se",) * 4)
    assert [type(group.experts).__name__ for group in moe.groups] == ["SqueezeExcitation"] * 4
    assert not torch.equal(moe.groups[0].experts.out.weight_EOI, moe.groups[1].experts.out.weight_EOI)


@pytest.mark.parametrize(("intra", "chosen"), [("sparse", 2), ("dense", E), ("none", 1)])
def test_intra_switch_reaches_every_group(intra, chosen):
    *_, gates = run(intra=intra)
    assert gates.indices.shape == (4, B, chosen)
    assert (gates.weights > 0).sum(-1).unique().tolist() == [chosen]


def test_given_gates_are_used():
    moe, images, features, output, inter, intra = run()
    flipped_inter, flipped_intra = (gates.map(lambda tensor: tensor.flip(-2)) for gates in (inter, intra))
    forced, returned, decided = moe(images, features, flipped_inter, flipped_intra)
    assert torch.equal(returned.weights, flipped_inter.weights) and torch.equal(decided.weights, flipped_intra.weights)
    torch.testing.assert_close(forced, plain_sum(moe, images, flipped_intra, flipped_inter.weights), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(forced, output, rtol=1e-3)


def test_routing_without_experts_decides_the_same():
    moe, _, features, _, inter, intra = run()
    again_inter, again_intra = moe.decide(features)
    assert torch.equal(again_inter.logits, inter.logits) and torch.equal(again_intra.weights, intra.weights)


def test_gains_scale_the_groups_and_leave_the_sub_experts():
    moe, images, features, output, inter, intra = run()
    gains = torch.tensor([0.0, 1, 2, 3])
    scaled_inter, same_intra = moe.decide(features, gains_G=gains)
    expected = inter.weights * gains / (inter.weights * gains).sum(dim=1, keepdim=True)
    torch.testing.assert_close(scaled_inter.weights, expected)
    assert torch.equal(same_intra.weights, intra.weights) and torch.equal(scaled_inter.logits, inter.logits)
    fused, *_ = moe(images, features, gains_G=gains)
    torch.testing.assert_close(fused, plain_sum(moe, images, intra, expected), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fused, output, rtol=1e-3)
