"""Intra-MoE against a plain dense reference."""

import pytest
import torch

from mimdit.conditioner import IntraMoE
from mimdit.routing.router import decide, router_features
from tests.conditioner.dense_reference import dense_intra_moe, sparse_weights
from tests.tiny_models import randomize

KINDS = ("spatial", "channel", "swin", "se")
B, C, E = 3, 6, 4
# Channel attention normalizes in fp32 on purpose.
TOLERANCE = {"spatial": 1e-11, "swin": 1e-11, "se": 1e-11, "channel": 1e-5}


def make(kind, top_k=2, *, shift=False, **options):
    moe = IntraMoE(kind, C, 5, E, top_k=top_k, shift=shift, **options).double()
    randomize(moe, 0, scale=0.5)
    return moe, torch.randn(B, C, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def unlike_logits():
    """Different choices from image to image; sub-expert 0 is nobody's choice."""
    logits = torch.randn(B, E, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    logits[:, 0] = -9
    return logits.requires_grad_()


def assert_close(actual, expected, kind, name=""):
    error = (actual.double() - expected.double()).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error < TOLERANCE[kind], f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("top_k", [1, 2, E])
@pytest.mark.parametrize(("kind", "shift"), [("spatial", False), ("channel", False), ("swin", False), ("swin", True), ("se", False)])
def test_output_and_gradients_are_those_of_the_dense_reference(kind, top_k, shift):
    moe, images = make(kind, top_k, shift=shift)
    images.requires_grad_()
    logits = unlike_logits()
    names, parameters = zip(*moe.experts.named_parameters(), strict=True)
    wanted = [images, logits, *parameters]

    output, _ = moe(images, None, decide(logits, top_k))
    reference = dense_intra_moe(kind, moe.experts, images, sparse_weights(logits, top_k), shift=shift)
    assert_close(output, reference, kind, "output")
    direction = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(3))
    actual = torch.autograd.grad(output, wanted, direction)
    expected = torch.autograd.grad(reference, wanted, direction)
    for name, one, other in zip(("images", "logits", *names), actual, expected, strict=True):
        assert_close(one, other, kind, name)


@pytest.mark.parametrize("dispatch", ["gather", "grouped"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.04)])
@pytest.mark.parametrize(("kind", "shift"), [("spatial", False), ("channel", False), ("swin", True), ("se", False)])
def test_both_dispatches_agree_with_the_dense_reference_also_where_a_sub_expert_gets_nothing(kind, shift, precision, tolerance, dispatch):
    moe = IntraMoE(kind, 16, 8, E, shift=shift, dispatch=dispatch)
    randomize(moe, 0, scale=0.3)
    images = torch.randn(B, 16, 16, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
    logits = unlike_logits().detach().float().requires_grad_()
    names, parameters = zip(*moe.experts.named_parameters(), strict=True)
    wanted = [images, logits, *parameters]

    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output, _ = moe(images, None, decide(logits, 2))
    reference = dense_intra_moe(kind, moe.experts, images, sparse_weights(logits, 2), shift=shift)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    actual = [output, *torch.autograd.grad(output, wanted, direction.to(output.dtype))]
    expected = [reference, *torch.autograd.grad(reference, wanted, direction)]
    for name, one, other in zip(("output", "images", "logits", *names), actual, expected, strict=True):
        error = (one.float() - other).abs().max() / other.abs().max()
        assert error < tolerance, f"{name}: relative error {error:.1e}"
        assert name in ("output", "images", "logits") or torch.count_nonzero(one[0]) == 0, f"{name} of the idle sub-expert"


@pytest.mark.parametrize("top_k", [1, E])
def test_grouped_dispatch_gives_what_gather_gives_for_any_number_of_chosen_ones(top_k):
    gathered, grouped = (IntraMoE("se", 16, 8, E, top_k=top_k, dispatch=dispatch) for dispatch in ("gather", "grouped"))
    grouped.load_state_dict(gathered.state_dict())
    images, gates = torch.randn(B, 16, 16, 24), decide(unlike_logits().float(), top_k)
    torch.testing.assert_close(grouped(images, None, gates)[0], gathered(images, None, gates)[0])


def test_on_a_cpu_auto_is_gather():
    images, gates = torch.randn(B, 16, 16, 16), decide(unlike_logits().float(), 2)
    torch.manual_seed(0)
    auto = IntraMoE("se", 16, 8, E)
    torch.manual_seed(0)
    gather = IntraMoE("se", 16, 8, E, dispatch="gather")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(auto(images, None, gates)[0], gather(images, None, gates)[0])


@pytest.mark.parametrize(
    ("dtype", "dim", "hidden", "words"),
    [
        (torch.float32, 16, 6, ("16 and 6 channels", "multiples of 4", "dispatch: gather")),
        (torch.bfloat16, 12, 8, ("12 and 8 channels", "multiples of 8", "dispatch: gather")),
        (torch.float64, 16, 8, ("float64", "bfloat16", "dispatch: gather")),
    ],
)
def test_what_cannot_be_grouped_is_refused_with_a_remedy(dtype, dim, hidden, words):
    moe = IntraMoE("se", dim, hidden, E, dispatch="grouped").to(dtype)
    with pytest.raises(ValueError) as error:
        moe(torch.zeros(B, dim, 8, 8, dtype=dtype), None, decide(unlike_logits().float(), 2))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("kind", KINDS)
def test_router_gradient_is_that_of_the_dense_reference(kind):
    moe, images = make(kind)
    features = router_features(images)
    output, gates = moe(images, features)
    weights = sparse_weights(torch.nn.functional.linear(features.double(), moe.router.linear.weight, moe.router.linear.bias), 2)
    reference = dense_intra_moe(kind, moe.experts, images, weights)
    wanted = list(moe.router.parameters())
    actual, expected = (torch.autograd.grad(out.square().sum(), wanted) for out in (output, reference))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))  # the router computes in fp32
    torch.testing.assert_close(gates.weights.double(), weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sub_expert_that_no_image_chose_has_a_gradient_of_exactly_zero(kind, top_k):
    moe, images = make(kind, top_k)
    moe(images, None, decide(unlike_logits(), top_k))[0].square().sum().backward()
    for name, parameter in moe.experts.named_parameters():
        assert parameter.grad is not None, name
        assert torch.count_nonzero(parameter.grad[0]) == 0, name
        assert torch.count_nonzero(parameter.grad[1:]) > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_sub_experts_that_are_not_chosen_do_not_change_the_output(kind):
    moe, images = make(kind)
    gates = decide(unlike_logits(), 2)
    before = moe(images, None, gates)[0].detach().clone()
    clean = {name: value.clone() for name, value in moe.state_dict().items()}
    for image in range(B):
        idle = [expert for expert in range(E) if expert not in gates.indices[image].tolist()]
        with torch.no_grad():
            for parameter in moe.experts.parameters():
                parameter[idle] = float("nan")
        assert torch.equal(moe(images, None, gates)[0][image], before[image])
        moe.load_state_dict(clean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_images_one_by_one(kind):
    moe, images = make(kind)
    features = router_features(images)
    together, gates = moe(images, features)
    for index in range(B):
        alone, own = moe(images[index : index + 1], features[index : index + 1])
        assert torch.equal(own.indices[0], gates.indices[index])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-6, atol=1e-6)


def test_given_gates_are_used_and_returned():
    moe, images = make("se")
    gates = decide(unlike_logits(), 2)
    output, returned = moe(images, router_features(images), gates)
    assert returned is gates
    assert not torch.allclose(output, moe(images, router_features(images))[0])


def test_dense_mode_weighs_all_sub_experts_by_the_softmax():
    moe, images = make("se", mode="dense")
    features = router_features(images)
    output, gates = moe(images, features)
    probs = torch.nn.functional.linear(features.double(), moe.router.linear.weight, moe.router.linear.bias).softmax(-1)
    torch.testing.assert_close(gates.weights.double(), probs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output, dense_intra_moe("se", moe.experts, images, probs), rtol=1e-4, atol=1e-4)


def test_mode_none_is_one_expert_as_wide_as_the_chosen_ones_and_no_gate():
    moe, images = make("se", top_k=3, mode="none")
    output, gates = moe(images, router_features(images))
    assert gates.weights.shape == (B, 1) and torch.equal(gates.weights, torch.ones(B, 1))
    assert moe.experts.out.weight_EOI.shape == (1, C, 3 * 5)
    assert not any(parameter.requires_grad for parameter in moe.router.parameters())
    torch.testing.assert_close(output, dense_intra_moe("se", moe.experts, images, torch.ones(B, 1, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "fourier"}, ("'fourier'", "spatial, channel, swin, se")),
        ({"mode": "hard"}, ("'hard'", "sparse, dense, none")),
        ({"dispatch": "loop"}, ("'loop'", "auto, gather, grouped")),
        ({"top_k": 5}, ("top_k=5", "1..4")),
        ({"top_k": 0}, ("top_k=0", "1..4")),
    ],
)
def test_a_wrong_argument_is_named_with_its_remedy(options, words):
    with pytest.raises(ValueError) as error:
        IntraMoE(**{"kind": "se", "dim": C, "hidden": 5, "num_experts": E} | options)
    assert all(word in str(error.value) for word in words)
