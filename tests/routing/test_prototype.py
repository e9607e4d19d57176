"""Routing with prototypes: cosines, temperature, and the losses that contrast and guide them."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from mimdit.routing import PrototypeRouter, Routing, RoutingBalance
from mimdit.routing.balance import contrast_loss
from mimdit.routing.router import decide
from tests.processes import run_in_processes

OFF = {"balance": 0.0, "z": 0.0, "importance": 0.0}


def features(batch=5, width=6):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(0))


def record(intra):
    groups, images, _ = intra.probs.shape[1:]
    inter = decide(torch.zeros(len(intra.probs), images, groups), groups)
    return Routing(inter, intra, torch.zeros(len(intra.probs), images, 2), ("se",) * groups)


@pytest.mark.parametrize("learned", [False, True])
def test_logits_are_cosines_over_the_temperature(learned):
    router = PrototypeRouter(6, 4, temperature=0.2, learned=learned)
    projected = features().numpy() @ router.project.weight.detach().numpy().T + router.project.bias.detach().numpy()
    prototypes = router.prototypes_NP.detach().numpy()
    lengths = np.linalg.norm(projected, axis=1)[:, None] * np.linalg.norm(prototypes, axis=1)
    np.testing.assert_allclose(router(features()).logits.detach().numpy(), projected @ prototypes.T / lengths / 0.2, rtol=1e-4, atol=1e-5)


def test_logits_are_fp32_under_bf16_autocast():
    router = PrototypeRouter(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = router(features())
    assert mixed.logits.dtype == torch.float32 and torch.equal(mixed.logits, router(features()).logits)


def test_only_a_learned_temperature_is_a_parameter_and_it_has_a_floor():
    router = PrototypeRouter(6, 4, learned=True)
    assert "log_temperature" in router.state_dict() and "log_temperature" not in PrototypeRouter(6, 4).state_dict()
    torch.nn.init.constant_(router.log_temperature, -50.0)
    assert float(router.temperature().detach()) == pytest.approx(0.01)


def test_uniform_gates_learn_nothing():
    router = PrototypeRouter(6, 4, mode="uniform")
    assert not router(features()).logits.any() and not any(parameter.requires_grad for parameter in router.parameters())


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"router temperature 0.0 is below 0.01; set it to 0.01 or more"):
        PrototypeRouter(6, 4, temperature=0.0)


def test_contrast_of_a_hand_case():
    """Images 0 and 1 go to expert 0, image 2 to expert 1, none to expert 2."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 1.0], [0.0, 4.0, 1.0]])
    loss = RoutingBalance(**OFF, contrast=1.0)(record(decide(logits[None, None], 1)))["contrast"]
    weights = logits.softmax(-1).amax(-1)
    first = (weights[0] * logits[0] + weights[1] * logits[1]) / (weights[0] + weights[1])
    own, other = float(first[0]), 0.0  # prototype 0 with the means of experts 0 and 1
    own_1, other_1 = 4.0, float(first[1])
    expected = (math.log(1 + math.exp(other - own)) + math.log(1 + math.exp(other_1 - own_1))) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_contrast_of_equal_prototypes_is_log_e():
    assert float(contrast_loss(torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4), 0.25))) == pytest.approx(math.log(4))


def test_following_contrast_moves_equal_prototypes_apart():
    torch.manual_seed(0)
    router = PrototypeRouter(6, 4, top_k=1)
    with torch.no_grad():
        router.prototypes_NP.copy_(router.prototypes_NP[:1] + 0.3 * router.prototypes_NP)
    before, optimizer = router.similarities().mean().item(), torch.optim.Adam(router.parameters(), lr=0.01)
    for _ in range(150):
        gates = router(features(64))
        loss = RoutingBalance(**OFF, contrast=1.0)(record(gates.map(lambda tensor: tensor[None, None])))["contrast"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert router.similarities().mean().item() < before - 0.2


def test_guide_is_the_cross_entropy_with_the_owners_of_the_degradations():
    """Three atoms and "none" on two experts: atoms 0 and 2 own expert 0, atom 1 and "none" expert 1."""
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    degradation = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
    loss = RoutingBalance(**OFF, guide=1.0)(record(decide(logits[None, None], 1)), degradation)["guide"]
    log_probs = logits.log_softmax(-1)
    assert float(loss) == pytest.approx(-float(log_probs[0, 0] + log_probs[1, 1] + log_probs[2, 1] + log_probs[3].mean()) / 4, rel=1e-5)


def test_guide_without_degradations_is_refused():
    with pytest.raises(ValueError, match=r"pass the batch's degradation, or set guide: 0"):
        RoutingBalance(guide=1.0)(record(decide(torch.zeros(1, 1, 2, 2), 1)))


def losses_and_gradients(rank, world):
    """Of this rank's share of eight images, the gradients averaged over ranks as DDP does."""
    torch.manual_seed(0)
    router = PrototypeRouter(6, 4, top_k=1, learned=True)
    rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
    gates = router(features(8)[rows]).map(lambda tensor: tensor[None, None])
    losses = RoutingBalance(**OFF, contrast=1.0, guide=1.0)(record(gates), torch.eye(8)[rows, :5])
    flat = torch.cat([g.flatten() for name in losses for g in torch.autograd.grad(losses[name], [*router.parameters()], retain_graph=True)])
    return {name: float(value.detach()) for name, value in losses.items()}, flat


@pytest.mark.long
def test_two_ranks_agree_with_one_process(tmp_path):
    (one, gradient), ranks = losses_and_gradients(0, 1), run_in_processes(partial(losses_and_gradients, world=2), tmp_path, 2)
    assert ranks[0][0]["contrast"] == pytest.approx(one["contrast"]) and ranks[1][0]["contrast"] == pytest.approx(one["contrast"])
    assert (ranks[0][0]["guide"] + ranks[1][0]["guide"]) / 2 == pytest.approx(one["guide"])
    torch.testing.assert_close((ranks[0][1] + ranks[1][1]) / 2, gradient, rtol=1e-4, atol=1e-6)
