"""Losses and utilization of the routing of tokens, against sums token by token."""

import math

import pytest
import torch

from mimdit.routing.token_routing import TokenRouting, token_losses
from mimdit.routing.token_utilization import TokenCounts, token_utilization
from tests.processes import run_in_processes

SIGMAS = [0.05, 0.9, 0.3, 1.0]


def made(images: int = 4, tokens: int = 6, blocks: int = 2, experts: int = 5, top_k: int = 2, seed: int = 0) -> TokenRouting:
    logits = torch.randn(blocks, images * tokens, experts, generator=torch.Generator().manual_seed(seed)) * 2
    return TokenRouting(logits, logits.topk(top_k).indices, torch.tensor(SIGMAS[:images]), tuple(range(1, 2 * blocks, 2)))


def part(routing: TokenRouting, rank: int) -> TokenRouting:
    half, tokens = slice(2 * rank, 2 * rank + 2), slice(12 * rank, 12 * rank + 12)
    return TokenRouting(routing.logits_LTE[:, tokens], routing.indices_LTK[:, tokens], routing.sigma_B[half], routing.blocks)


def test_the_losses_are_those_of_their_formulas():
    routing = made()
    balance = z = 0.0
    for logits, indices in zip(routing.logits_LTE, routing.indices_LTK):
        load, probs = [0.0] * 5, [0.0] * 5
        for token in range(24):
            weights = [math.exp(float(logit)) for logit in logits[token]]
            z += math.log(sum(weights)) ** 2 / 48
            for expert in range(5):
                probs[expert] += weights[expert] / sum(weights) / 24
                load[expert] += float(expert in indices[token]) / 48
        balance += 5 * sum(f * p for f, p in zip(load, probs)) / 2
    losses = token_losses(routing, balance=0.5, z=3.0)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(
        {"token_balance": 0.5 * balance, "token_z": 3 * z}, rel=1e-5
    )


def test_uniform_routing_has_the_least_balance_loss_and_collapse_the_most():
    even = TokenRouting(torch.zeros(1, 4, 4), torch.arange(4)[None, :, None], torch.ones(1), (0,))
    collapsed = TokenRouting(torch.tensor([9.0, 0, 0, 0]).repeat(1, 4, 1), torch.zeros(1, 4, 1, dtype=torch.int64), torch.ones(1), (0,))
    assert float(token_losses(even, balance=1.0, z=0.0)["token_balance"]) == pytest.approx(1)
    assert float(token_losses(collapsed, balance=1.0, z=0.0)["token_balance"]) > 3.9


def test_a_weight_of_zero_leaves_a_loss_out():
    assert token_losses(made(), balance=0.0, z=0.0) == {} and [*token_losses(made(), balance=0.0, z=1.0)] == ["token_z"]


def gradient_of(routing: TokenRouting) -> torch.Tensor:
    """Of a router of which the logits are linear: one matrix for all tokens."""
    matrix = torch.eye(5).requires_grad_()
    steered = TokenRouting(routing.logits_LTE @ matrix, routing.indices_LTK, routing.sigma_B, routing.blocks)
    sum(token_losses(steered, balance=1.0, z=0.1).values()).backward()
    return matrix.grad


def of_rank(rank: int) -> dict:
    counts = TokenCounts()
    counts.update(part(made(), rank))
    counts.all_reduce()
    return {"gradient": gradient_of(part(made(), rank)), "hits": counts.hits_SLE, "tokens": counts.tokens_S}


def test_two_ranks_have_the_mean_gradient_and_the_counts_of_all_tokens(tmp_path):
    first, second = run_in_processes(of_rank, tmp_path)
    torch.testing.assert_close((first["gradient"] + second["gradient"]) / 2, gradient_of(made()))
    assert not torch.allclose(first["gradient"], second["gradient"])
    counts = TokenCounts()
    counts.update(made())
    for rank in (first, second):
        assert torch.equal(rank["hits"], counts.hits_SLE) and torch.equal(rank["tokens"], counts.tokens_S)


def test_tokens_are_counted_by_block_expert_and_noise_level():
    routing, counts = made(), TokenCounts(bins=4)
    counts.update(part(routing, 0))
    counts.update(part(routing, 1))
    expected = torch.zeros(4, 2, 5, dtype=torch.float64)
    for image, bin_ in enumerate([0, 3, 1, 3]):
        for block in range(2):
            for token in range(6 * image, 6 * image + 6):
                for expert in routing.indices_LTK[block, token]:
                    expected[bin_, block, expert] += 1
    statistics = token_utilization(counts)
    assert statistics.tokens_S.tolist() == [6, 6, 0, 12] and statistics.blocks == (1, 3)
    load = expected.sum(0) / 48
    torch.testing.assert_close(statistics.load_LE, load)
    torch.testing.assert_close(statistics.max_violation_L, load.amax(-1) * 5 - 1)
    torch.testing.assert_close(statistics.load_SLE[3], expected[3] / 24)
    torch.testing.assert_close(statistics.max_violation_SL[0], expected[0].amax(-1) / 12 * 5 - 1)
    assert statistics.load_SLE[2].isnan().all()
    counts.reset()
    with pytest.raises(ValueError, match="the window of token counts is empty"):
        token_utilization(counts)


def test_information_is_one_where_sigma_decides_and_zero_where_it_does_not():
    sigma = torch.tensor([0.1, 0.9])
    by_sigma, alike = torch.tensor([[0] * 4 + [1] * 4]), torch.tensor([[0, 0, 1, 1] * 2])
    found = []
    for chosen in (by_sigma, alike):
        counts = TokenCounts(bins=2)
        counts.update(TokenRouting(torch.zeros(1, 8, 2), chosen[..., None], sigma, (0,)))
        found.append(float(token_utilization(counts).information_L))
    assert found == pytest.approx([1, 0], abs=1e-9)


def test_the_load_entropy_is_one_where_balanced_and_for_a_single_expert():
    for experts, chosen, expected in ((3, [0, 1, 2] * 4, 1), (2, [0] * 12, 0), (1, [0] * 12, 1)):
        counts = TokenCounts()
        counts.update(TokenRouting(torch.zeros(1, 12, experts), torch.tensor([chosen])[..., None], torch.tensor([0.5]), (0,)))
        assert abs(float(token_utilization(counts).load_entropy_L) - expected) < 1e-12


def test_bins_below_one_are_named():
    with pytest.raises(ValueError, match="bins=0 of sigma must be at least 1"):
        TokenCounts(0)
