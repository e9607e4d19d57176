"""Routers: features, precision, selection."""

import numpy as np
import pytest
import torch

from mimdit.routing import Router, router_features
from mimdit.routing.router import decide


def features(batch=5, width=6):
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(0))


def test_features_are_mean_and_log_std_of_each_channel():
    images = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 4 + 1
    values = images.double().numpy().reshape(2, 3, -1)
    expected = np.concatenate([values.mean(-1), np.log(values.std(-1) + 1e-4)], axis=1)
    np.testing.assert_allclose(router_features(images).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_features_of_a_constant_image_have_a_finite_gradient():
    images = torch.ones(1, 2, 4, 4, requires_grad=True)
    router_features(images).sum().backward()
    assert images.grad.isfinite().all()


def test_everything_is_fp32_under_bf16_autocast():
    router, images = Router(6, 4), torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = router(router_features(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = router(router_features(images))
        low = router(router_features(images).bfloat16())
    for name in ("logits", "probs", "weights"):
        assert getattr(mixed, name).dtype == getattr(low, name).dtype == torch.float32
        assert torch.equal(getattr(mixed, name), getattr(plain, name))


@pytest.mark.parametrize("top_k", [2, 3])
def test_the_most_probable_are_kept_and_renormalized(top_k):
    gates = Router(6, 4, top_k=top_k)(features())
    for row in range(5):
        probs = gates.probs[row].detach().numpy()
        best = np.argsort(-probs)[:top_k]
        expected = np.zeros(4)
        expected[best] = probs[best] / probs[best].sum()
        assert gates.indices[row].tolist() == best.tolist()
        np.testing.assert_allclose(gates.weights[row].detach().numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(gates.probs, gates.logits.softmax(-1))


def test_the_weight_of_a_single_choice_is_its_probability_and_has_a_gradient():
    router = Router(6, 4, top_k=1)
    gates = router(features())
    kept = gates.weights.gather(-1, gates.indices)
    assert torch.equal(kept, gates.probs.max(dim=-1, keepdim=True).values) and (kept < 1).all()
    kept.sum().backward()
    assert router.linear.weight.grad.abs().sum() > 0


def test_dense_weights_are_the_softmax():
    gates = Router(6, 4, mode="dense")(features())
    assert torch.equal(gates.weights, gates.probs) and gates.indices.shape == (5, 4)


def test_uniform_weights_are_all_alike():
    router = Router(6, 4, mode="uniform")
    assert torch.equal(router(features()).weights, torch.full((5, 4), 0.25))
    assert not any(parameter.requires_grad for parameter in router.parameters())


def test_all_kept_is_the_softmax_itself():
    logits = features()
    assert torch.equal(decide(logits, 6).weights, logits.softmax(-1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 5}, ("top_k=5 of 4", "1..4")),
        ({"top_k": 0}, ("top_k=0 of 4", "1..4")),
        ({"mode": "soft"}, ("'soft'", "dense, sparse, uniform")),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError) as error:
        Router(6, 4, **options)
    assert all(word in str(error.value) for word in words)
