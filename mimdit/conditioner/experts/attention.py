"""Attention over few keys, written out: with at most some hundred keys the explicit matrix is cheaper than a fused kernel."""

import torch


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``softmax(query^T key / sqrt(d) + bias) value`` for channel-major ``[..., d, N]`` queries and ``[..., d, S]`` keys and values.

    ``bias`` broadcasts to ``[..., N, S]``. Returns ``[..., d, N]``. The softmax is in fp32 under autocast.
    """
    scores = (query * query.shape[-2] ** -0.5).transpose(-1, -2) @ key
    if bias is not None:
        scores = scores + bias
    return value @ scores.softmax(dim=-1).to(value.dtype).transpose(-1, -2)
