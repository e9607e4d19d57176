"""Experts beside a feed-forward: nothing changes at initialization, and they compute what a loop over tokens does."""

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mimdit.backbone import DiTBackbone, InnerExperts
from mimdit.backbone.feed_forward_moe import ExpertFeedForward, TokenExperts, collected_gates
from tests.tiny_models import ARCHITECTURE, PIXART, tiny_backbone

SD35 = ARCHITECTURE | {"num_layers": 3, "dual_attention_layers": [0], "qk_norm": "rms_norm"}
SIGMA = torch.tensor([0.2, 0.9])


def latents():
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", [SD35, PIXART], ids=["sd3", "pixart"])
@pytest.mark.parametrize(
    "moe",
    [
        InnerExperts(),
        InnerExperts(every=1, num_experts=2, top_k=2, granularity=1),
        InnerExperts(every=1, num_experts=5, top_k=1, granularity=4),
        InnerExperts(every=1, num_experts=4, top_k=3, granularity=8, dispatch="grouped"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_initialization_the_transformer_is_the_same_to_the_bit(architecture, moe, dtype):
    residuals = [torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(1))] * 2
    plain, upcycled = (tiny_backbone(architecture=architecture, moe=which, dtype=dtype) for which in (None, moe))
    assert torch.equal(upcycled.velocity(latents(), SIGMA, residuals), plain.velocity(latents(), SIGMA, residuals))
    with_experts(upcycled)
    assert not torch.equal(upcycled.velocity(latents(), SIGMA, residuals), plain.velocity(latents(), SIGMA, residuals))


def with_experts(backbone: DiTBackbone) -> list[ExpertFeedForward]:
    """Give the experts outputs."""
    found = [module for module in backbone.transformer.modules() if isinstance(module, ExpertFeedForward)]
    for seed, feed_forward in enumerate(found):
        nn.init.normal_(feed_forward.experts.weight_out_EDH, std=0.3, generator=torch.Generator().manual_seed(seed))
    return found


def learned(num_experts: int, top_k: int, granularity: int, dispatch: str, dim: int = 16) -> ExpertFeedForward:
    torch.manual_seed(0)
    shared = FeedForward(dim, activation_fn="gelu-approximate")
    experts = TokenExperts(shared, num_experts=num_experts, top_k=top_k, granularity=granularity, dispatch=dispatch)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.4)
    return ExpertFeedForward(shared, experts)


def dense_loop(feed_forward: ExpertFeedForward, hidden_states: torch.Tensor, top_k: int) -> torch.Tensor:
    """Every token by itself, every expert for it, its gates as defined."""
    experts, outputs = feed_forward.experts, []
    for token in hidden_states.flatten(0, 1):
        probs = (experts.router.linear.weight @ token + experts.router.linear.bias).softmax(dim=0)
        order = probs.argsort(descending=True)[:top_k]
        gates = torch.stack([probs[e] if e in order else probs[e] * 0 for e in range(len(probs))])
        if top_k > 1:
            gates = gates / gates.sum()
        inner = [
            nn.functional.gelu(experts.weight_in_EHD[e] @ token + experts.bias_in_EH[e], approximate="tanh") for e in range(len(probs))
        ]
        routed = [gates[e] * (experts.weight_out_EDH[e] @ inner[e]) for e in range(len(probs))]
        outputs.append(feed_forward.net[2](feed_forward.net[0](token)) + torch.stack(routed).sum(dim=0))
    return torch.stack(outputs).view(hidden_states.shape)


@pytest.mark.parametrize("dispatch", ["loop", "grouped"])
@pytest.mark.parametrize(("num_experts", "top_k", "granularity"), [(8, 2, 2), (4, 1, 1), (3, 3, 4), (32, 2, 2)])
def test_outputs_and_gradients_are_those_of_a_loop_over_tokens(dispatch, num_experts, top_k, granularity):
    feed_forward = learned(num_experts, top_k, granularity, dispatch)
    hidden_states = torch.randn(2, 5, 16).requires_grad_()
    target = torch.randn(2, 5, 16)
    wanted = [hidden_states, *feed_forward.parameters()]
    expected = dense_loop(feed_forward, hidden_states, top_k)
    found = feed_forward(hidden_states)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad((output - target).square().sum(), wanted) for output in (found, expected))
    for gradient, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4)
    used = feed_forward.experts(hidden_states)[1].indices_TK.unique()
    assert num_experts < 32 or len(used) < num_experts  # the last case has experts without tokens, whose gradients are zero, not None


def test_one_expert_of_the_whole_width_is_a_dense_feed_forward_of_twice_the_width():
    feed_forward, hidden_states = learned(1, 1, 1, "loop"), torch.randn(2, 5, 16)
    experts, (activation, _, project) = feed_forward.experts, feed_forward.net
    weight = torch.cat([activation.proj.weight, experts.weight_in_EHD[0]])
    bias = torch.cat([activation.proj.bias, experts.bias_in_EH[0]])
    wide = torch.nn.functional.gelu(hidden_states @ weight.T + bias, approximate="tanh")
    expected = wide @ torch.cat([project.weight, experts.weight_out_EDH[0]], dim=1).T + project.bias
    torch.testing.assert_close(feed_forward(hidden_states), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dispatch", ["loop", "grouped"])
def test_under_autocast_the_experts_compute_in_bf16_and_the_router_in_fp32(dispatch):
    feed_forward, hidden_states = learned(8, 2, 2, dispatch), torch.randn(2, 7, 16)
    expected = feed_forward(hidden_states)
    with torch.autocast("cpu", torch.bfloat16):
        routed, gates = feed_forward.experts(hidden_states)
        found = feed_forward(hidden_states)
    assert routed.dtype == torch.bfloat16 and gates.logits_TE.dtype == torch.float32
    torch.testing.assert_close(gates.logits_TE, feed_forward.experts(hidden_states)[1].logits_TE, rtol=0, atol=0)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.1)


def test_experts_begin_as_slices_of_the_feed_forward():
    shared = FeedForward(16, activation_fn="gelu-approximate")
    experts = TokenExperts(shared, num_experts=5, top_k=2, granularity=4)
    assert experts.weight_in_EHD.shape == (5, 16, 16) and experts.weight_out_EDH.shape == (5, 16, 16)
    for expert in range(5):
        own = slice(16 * (expert % 4), 16 * (expert % 4) + 16)
        assert torch.equal(experts.weight_in_EHD[expert], shared.net[0].proj.weight[own])
        assert torch.equal(experts.bias_in_EH[expert], shared.net[0].proj.bias[own])
    assert not experts.weight_out_EDH.any()


def test_they_are_made_on_shapes():
    with FakeTensorMode():  # as `mimdit plan` makes a model
        assert learned(4, 2, 2, "auto").experts.weight_out_EDH.shape == (4, 16, 32)


@pytest.mark.parametrize("architecture", [SD35, PIXART], ids=["sd3", "pixart"])
def test_checkpointing_changes_neither_the_gradients_nor_what_is_collected(architecture):
    seen = {}
    for checkpointing in (False, True):
        backbone = tiny_backbone(architecture=architecture, moe=InnerExperts(every=1), checkpointing=checkpointing)
        feed_forwards = with_experts(backbone)
        with collected_gates() as gates:
            velocity = backbone.transformer.train() and backbone.velocity(latents(), SIGMA)
        loss = velocity.square().mean() + sum(gate.logits_TE.square().mean() for gate in gates)
        loss.backward()
        assert len(gates) == len(feed_forwards)
        seen[checkpointing] = [parameter.grad for feed_forward in feed_forwards for parameter in feed_forward.experts.parameters()]
    for plain, recomputed in zip(seen[False], seen[True], strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-7)


def test_collected_logits_train_the_router_only():
    feed_forward, hidden_states = learned(4, 2, 2, "loop"), torch.randn(2, 5, 16).requires_grad_()
    with collected_gates() as gates:
        feed_forward(hidden_states)
    (first,) = gates
    wanted = {name: parameter for name, parameter in feed_forward.named_parameters()} | {"hidden_states": hidden_states}
    found = torch.autograd.grad(first.logits_TE.logsumexp(-1).square().mean(), [*wanted.values()], allow_unused=True)
    assert {name for name, gradient in zip(wanted, found) if gradient is not None} == {
        "experts.router.linear.weight",
        "experts.router.linear.bias",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "moe every=0 must be at least 1"),
        ({"every": 4}, "moe every=4 reaches none of the transformer's 3 blocks; use 3 or less"),
        ({"num_experts": 0}, "moe num_experts=0 must be at least 1"),
        ({"top_k": 9}, "moe top_k=9 exceeds num_experts=8; lower it, or raise num_experts"),
        ({"granularity": 3}, "moe granularity=3 does not divide the feed-forward's hidden width 64"),
        ({"balance": -1}, "moe balance=-1 is negative; use 0 to switch the loss off"),
        ({"dispatch": "gather"}, "moe dispatch 'gather' is unknown; choose one of auto, grouped, loop"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        tiny_backbone(architecture=SD35, moe=InnerExperts(**options))
