"""ExpertFeedForward: a pretrained feed-forward as the shared expert, beside experts to which a router sends its tokens.

Not in the paper. The form is that of Mamoda2.5 (arXiv 2605.02641), a diffusion transformer with fine-grained experts whose dense
feed-forwards were upcycled; upcycling is from arXiv 2212.05055, fine-grained and shared experts are from arXiv 2401.06066. The zero
output projection is this project's: upcycled and original transformer are the same function.

The transformer is not forked and its blocks return hidden states only, so the gates reach the caller through `collected_gates`, a context
around one forward pass. A list in a context is not module state: it is new for each pass. A recomputation for gradient checkpointing
happens in the backward pass, when the context is closed, so it is never collected.

Shape legend: T tokens, D channels of a token, E experts, K chosen per token, H hidden channels of one expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, cast

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from torch import nn

from mimdit.backbone.token_dispatch import fan_in, fan_out, stacked_linear
from mimdit.conditioner.dispatch import Rows, compute_dtype, is_grouped
from mimdit.routing.router import Router, outside_autocast


class TokenGates(NamedTuple):
    """Decisions of one feed-forward for its tokens, image by image.

    Attributes:
        logits_TE: Logits in fp32. Their gradient reaches the router's weights only, not the hidden states.
        indices_TK: Chosen experts, in decreasing order of probability.
    """

    logits_TE: torch.Tensor
    indices_TK: torch.Tensor


_COLLECTED: ContextVar[list[TokenGates] | None] = ContextVar("collected", default=None)


@contextmanager
def collected_gates() -> Iterator[list[TokenGates]]:
    """Collect the gates of every `ExpertFeedForward` that runs inside the context, in the order of the blocks."""
    gates: list[TokenGates] = []
    token = _COLLECTED.set(gates)
    try:
        yield gates
    finally:
        _COLLECTED.reset(token)


class TokenExperts(nn.Module):
    """Stack of E feed-forwards without output bias, and the router that gives each token K of them.

    Each begins as a slice of the hidden channels of ``shared``, expert e as slice ``e mod granularity``, with a zero output projection.

    Args:
        shared: Feed-forward whose input projection is sliced.
        num_experts: Number E of experts.
        top_k: Number K of experts per token; see `mimdit.routing.router.Gating` for their gates.
        granularity: Divisor of the hidden width; 1 for experts as wide as ``shared``.
        dispatch: One of `mimdit.backbone.token_dispatch.DISPATCHES`.

    Raises:
        ValueError: The hidden width is not a multiple of ``granularity``, ``top_k`` is out of range, or the activation is not a GELU.
    """

    def __init__(self, shared: FeedForward, *, num_experts: int, top_k: int, granularity: int, dispatch: str = "auto") -> None:
        super().__init__()
        activation = shared.net[0]
        if not isinstance(activation, GELU):
            raise ValueError(f"experts need a feed-forward with GELU, but this has {type(activation).__name__}; leave moe out")
        project = cast(nn.Linear, getattr(activation.proj, "base_layer", activation.proj))  # under adapters
        if project.out_features % granularity:
            raise ValueError(
                f"moe granularity={granularity} does not divide the feed-forward's hidden width {project.out_features}; choose a divisor"
            )
        self.approximate, self.dispatch = activation.approximate, dispatch
        self.router = Router(project.in_features, num_experts, top_k=top_k)
        slices = torch.arange(num_experts) % granularity
        weight, bias = (_in_fp32(tensor.detach()) for tensor in (project.weight, project.bias))
        self.weight_in_EHD = nn.Parameter(weight.unflatten(0, (granularity, -1))[slices])
        self.bias_in_EH = nn.Parameter(bias.unflatten(0, (granularity, -1))[slices])
        self.weight_out_EDH = nn.Parameter(torch.zeros(num_experts, project.in_features, self.bias_in_EH.shape[1]))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, TokenGates]:
        """Return the experts' weighted sum for ``hidden_states [B, N, D]``, in the compute type, and the gates of the T = B * N tokens."""
        with outside_autocast(hidden_states):
            features_TD = hidden_states.flatten(0, -2).float()
            gates = self.router(features_TD)
            # Computed whether collected or not: a recomputation must repeat what the first pass did.
            logits_TE = self.router.logits(features_TD.detach()) if torch.is_grad_enabled() else gates.logits
        rows = Rows.sort(gates.indices, len(self.weight_in_EHD))
        channels = hidden_states.shape[-1], self.bias_in_EH.shape[1]
        # On the meta device, where operations are counted in fp32, only 16-bit types have grouped products; a loop counts the same.
        grouped = not hidden_states.is_meta and is_grouped(self.dispatch, hidden_states, channels, otherwise="loop")
        states_RD = fan_out(hidden_states.flatten(0, -2).to(compute_dtype(hidden_states)), rows)
        states_RH = stacked_linear(states_RD, self.weight_in_EHD, self.bias_in_EH, rows, grouped=grouped)
        states_RH = nn.functional.gelu(states_RH, approximate=self.approximate)
        states_RD = stacked_linear(states_RH, self.weight_out_EDH, None, rows, grouped=grouped)
        output_TD = fan_in(states_RD, rows, gates.weights.gather(-1, gates.indices))
        return output_TD.view(hidden_states.shape), TokenGates(logits_TE, gates.indices)


class ExpertFeedForward(FeedForward):
    """Feed-forward of diffusers plus routed experts; its own layers keep their names, so weights load as before.

    Args:
        shared: The pretrained feed-forward, whose layers become this one's.
        experts: The routed experts.
    """

    def __init__(self, shared: FeedForward, experts: TokenExperts) -> None:
        nn.Module.__init__(self)
        self.net, self.experts = shared.net, experts

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Return the sum of shared and routed experts, ``[B, N, D]``."""
        routed, gates = self.experts(hidden_states)
        _collect(gates)
        return super().forward(hidden_states, *args, **kwargs) + routed

    def shared(self) -> FeedForward:
        """Return the pretrained feed-forward, with the same layers."""
        plain = FeedForward.__new__(FeedForward)
        nn.Module.__init__(plain)
        plain.net = self.net
        return plain


def _in_fp32(tensor: torch.Tensor) -> torch.Tensor:
    is_int8 = type(tensor).dequantize is not torch.Tensor.dequantize  # torchao's class has its own
    return (tensor.dequantize() if is_int8 else tensor).float()


@torch.compiler.disable  # a compiled block would keep the list of its first call
def _collect(gates: TokenGates) -> None:
    if (collected := _COLLECTED.get()) is not None:
        collected.append(gates)
