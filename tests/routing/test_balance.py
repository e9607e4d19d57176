"""Routing losses against brute force, at their minimum, and what they cost."""

import math

import numpy as np
import pytest
import torch

from mimdit.routing import Gates, Routing, RoutingBalance
from mimdit.routing import balance as balance_module
from mimdit.routing.router import decide

M, G, B, E, K, A = 2, 3, 5, 4, 2, 3
ALL = {"balance": 1.0, "z": 1.0, "importance": 1.0, "specialization": 1.0}
DEGRADATION = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 1, 1]])


def routing(seed=0, scale=1.0, top_k=K):
    generator = torch.Generator().manual_seed(seed)
    inter = decide(scale * torch.randn(M, B, G, generator=generator), G)
    intra = decide(scale * torch.randn(M, G, B, E, generator=generator), top_k)
    return Routing(inter, intra, torch.zeros(M, B, 2), ("se",) * G)


def losses(record, degradation=DEGRADATION, **weights):
    return RoutingBalance(**dict.fromkeys(ALL, 0.0) | (weights or ALL))(record, degradation)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_balance_is_experts_times_load_times_probability(top_k):
    record = routing(top_k=top_k)
    probs, indices = record.intra.probs.numpy(), record.intra.indices.numpy()
    terms = []
    for m in range(M):
        for g in range(G):
            total = 0.0
            for e in range(E):
                load = sum(int(e in indices[m, g, b]) for b in range(B)) / (B * top_k)
                total += load * np.mean([probs[m, g, b, e] for b in range(B)])
            terms.append(E * total)
    assert float(losses(record)["balance"]) == pytest.approx(np.mean(terms), rel=1e-6)


def test_z_is_the_mean_squared_log_sum_exp_of_every_gate():
    record = routing()
    rows = [*record.inter.logits.reshape(-1, G).numpy(), *record.intra.logits.reshape(-1, E).numpy()]
    assert float(losses(record)["z"]) == pytest.approx(np.mean([np.log(np.exp(row).sum()) ** 2 for row in rows]), rel=1e-5)


def test_importance_is_the_squared_coefficient_of_variation_of_the_group_means():
    record = routing()
    means = record.inter.probs.numpy().mean(axis=1)
    assert float(losses(record)["importance"]) == pytest.approx(np.mean([(np.std(row) / np.mean(row)) ** 2 for row in means]), rel=1e-5)


def test_specialization_is_minus_the_mutual_information_with_shared_out_degradations():
    record, values = routing(), []
    shares = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 1], [0, 0.5, 0.5, 0], [1 / 3] * 3 + [0]])
    for m in range(M):
        for g in range(G):
            joint = sum(np.outer(shares[b], record.intra.probs[m, g, b].numpy()) for b in range(B)) / B
            independent = np.outer(joint.sum(1), joint.sum(0))
            seen = joint > 0
            values.append((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
    assert float(losses(record)["specialization"]) == pytest.approx(-np.mean(values), rel=1e-4)


def gates_of(probs, top_k):
    return decide(probs.clamp_min(1e-12).log(), top_k)


def test_minimum_of_balance_is_one_where_load_and_probability_are_even():
    """Every expert chosen equally often, all probabilities alike."""
    even = torch.full((1, 1, E, E), 1 / E)
    indices = torch.tensor([[0, 1], [2, 3], [1, 2], [3, 0]])[None, None]
    gates = Gates(even.log(), even, indices, even)
    record = Routing(routing().inter, gates, torch.zeros(1, E, 2), ("se",))
    assert float(losses(record, balance=1.0)["balance"]) == pytest.approx(1.0)


def test_balance_exceeds_one_wherever_choice_and_probability_agree():
    """Top-k of random gates: the chosen are the probable, so load and mean probability rise together."""
    values = []
    for seed in range(50):
        logits = torch.randn(1, 1, 400, E, generator=torch.Generator().manual_seed(seed)) + torch.randn(
            E, generator=torch.Generator().manual_seed(1000 + seed)
        )
        record = Routing(routing().inter, decide(logits, K), torch.zeros(1, 400, 2), ("se",))
        values.append(float(losses(record, balance=1.0)["balance"]))
    assert min(values) > 1


def test_following_the_gradient_of_balance_leads_to_even_load():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(256, 8, generator=generator)
    weight, bias = torch.randn(E, 8, generator=generator).requires_grad_(), torch.tensor([3.0, 1.0, 0.0, -2.0]).requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], lr=0.05)
    for _ in range(150):
        gates = decide((features @ weight.T + bias)[None, None], K)
        record = Routing(routing().inter, gates, features[None], ("se",))
        loss = losses(record, balance=1.0)["balance"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    load = torch.nn.functional.one_hot(record.intra.indices, E).float().sum(dim=(0, 1, 2, 3)) / (256 * K)
    assert loss.item() < 1.03 and load.min() > 0.15, load


def test_minimum_of_importance_is_zero_at_even_means():
    even = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[None]  # each image certain, all together even
    uneven = torch.tensor([[0.5, 0.25, 0.25]] * 3)[None]
    for probs, expected in ((even, 0.0), (uneven, ((0.5 - 1 / 3) ** 2 + 2 * (0.25 - 1 / 3) ** 2) / 3 * 9)):
        record = Routing(gates_of(probs, 3), routing().intra, torch.zeros(1, 3, 2), ("se",) * G)
        assert float(losses(record, importance=1.0)["importance"]) == pytest.approx(expected, abs=1e-6)


def test_specialization_is_zero_at_uniform_routing_and_minus_log_e_at_perfect_separation():
    degradation = torch.eye(4)[:, :3]  # three atoms and one image of none
    for probs, expected in ((torch.full((4, E), 1 / E), 0.0), (torch.eye(4), -math.log(4))):
        record = Routing(routing().inter, gates_of(probs[None, None], 1), torch.zeros(1, 4, 2), ("se",))
        assert float(losses(record, degradation, specialization=1.0)["specialization"]) == pytest.approx(expected, abs=1e-5)


def test_gradient_vanishes_at_uniform_routing_but_for_z():
    """At equal logits the balance, importance and specialization losses are stationary in the mean over images."""
    logits = torch.zeros(1, 4, G, requires_grad=True)
    record = Routing(decide(logits, G), routing().intra, torch.zeros(1, 4, 2), ("se",) * G)
    assert torch.autograd.grad(losses(record, importance=1.0)["importance"], logits)[0].abs().max() < 1e-7
    logits = torch.zeros(1, 1, 4, E, requires_grad=True)
    gates = decide(logits, K)
    gates = Gates(gates.logits, gates.probs, torch.tensor([[0, 1], [2, 3], [1, 2], [3, 0]])[None, None], gates.weights)
    record = Routing(routing().inter, gates, torch.zeros(1, 4, 2), ("se",))
    for name in ("balance", "specialization"):
        loss = losses(record, torch.eye(4)[:, :3], **{name: 1.0})[name]
        assert torch.autograd.grad(loss, logits, retain_graph=True)[0].abs().max() < 1e-7, name


@pytest.mark.parametrize("name", ALL)
def test_a_weight_of_zero_computes_nothing(name, monkeypatch):
    function = {"balance": "switch_loss", "z": "z_loss", "importance": "importance_cv2", "specialization": "mutual_information"}[name]
    monkeypatch.setattr(balance_module, function, lambda *_: pytest.fail(f"{function} was called"))
    assert set(losses(routing(), **ALL | {name: 0.0})) == set(ALL) - {name}


def test_active_is_true_if_any_loss_is_on():
    assert RoutingBalance().active and not RoutingBalance(balance=0, z=0, importance=0).active


def test_losses_are_unweighted():
    assert losses(routing(), balance=7.0)["balance"] == losses(routing(), balance=1.0)["balance"]


def test_specialization_without_degradations_and_negative_weights_are_errors():
    with pytest.raises(ValueError, match=r"pass the batch's degradation, or set specialization: 0"):
        losses(routing(), None)
    with pytest.raises(ValueError, match=r"the routing loss guide .*pass the batch's degradation, or set guide: 0"):
        losses(routing(), None, specialization=0.0, guide=1.0)
    with pytest.raises(ValueError, match=r"importance=-1 is negative; use 0"):
        RoutingBalance(importance=-1)
