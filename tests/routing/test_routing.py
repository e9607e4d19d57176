"""The routing record."""

import torch

from mimdit.routing import Gates, Routing
from mimdit.routing.router import decide


def record():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    gates = decide(logits, 2)
    return Routing(gates, Gates.stack([gates, gates]), torch.randn(2, 3, 6), ("se", "swin"))


def test_stack_adds_an_axis_in_front():
    stacked = record().intra
    assert stacked.logits.shape == (2, 2, 3, 4) and stacked.indices.shape == (2, 2, 3, 2)
    assert torch.equal(stacked.weights[1], record().inter.weights)


def test_unbind_undoes_stack():
    gates = [decide(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)), 2) for seed in (0, 1)]
    for back, own in zip(Gates.stack(gates).unbind(), gates, strict=True):
        assert all(torch.equal(getattr(back, name), getattr(own, name)) for name in ("logits", "probs", "indices", "weights"))


def test_detach_leaves_the_graph_and_changes_no_value():
    routing = record()
    assert routing.intra.weights.requires_grad
    detached = routing.detach()
    assert not any(t.requires_grad for gates in (detached.inter, detached.intra) for t in (gates.logits, gates.probs, gates.weights))
    assert torch.equal(detached.intra.weights, routing.intra.weights) and detached.groups == routing.groups


def test_map_reaches_every_tensor_with_a_batch_axis():
    shifted = record().map(lambda tensor: tensor[..., :1, :])
    assert shifted.inter.indices.shape == (2, 1, 2) and shifted.features_MBF.shape == (2, 1, 6)
