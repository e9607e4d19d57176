"""Dispatch of tokens to their chosen experts: rows, one for each pair of a token and an expert, sorted by expert.

No token is dropped and no expert has a capacity. The rows are those of `mimdit.conditioner.dispatch`, with tokens for images. There are two
ways to multiply each run of rows by the weights of its expert, and they agree up to rounding:

- ``grouped`` is one kernel for all experts (`torch.nn.functional.grouped_mm`) and does not wait for the device.
- ``loop`` is one product per expert. It reads the lengths of the runs on the host, for which a GPU is waited for once per layer. It works
  on any device with any dtype.

Copying the weights of each row, as the conditioner may, is out of the question here: there are thousands of tokens per image.

Shape legend: T tokens, E experts, K chosen per token, R = T * K rows, I input and O output channels.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows, Sorting
from mimdit.conditioner.stacked import pick

DISPATCHES = ("auto", "grouped", "loop")

_WITHOUT_DATA = ("meta", "simulated")
"""Device types whose tensors have shapes only."""


def fan_out(tokens_TC: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return the token of each sorted row, ``[R, C]``."""
    return _FanOut.apply(tokens_TC, *_orders(rows), rows.num_chosen)


def fan_in(rows_RC: torch.Tensor, rows: Rows, weights_TK: torch.Tensor) -> torch.Tensor:
    """Return the sum over the K rows of each token, weighted by its gates, ``[T, C]``."""
    pairs_R, places_R = _orders(rows)
    by_token_TKC = _Reorder.apply(rows_RC, places_R, pairs_R).unflatten(0, weights_TK.shape)
    return (by_token_TKC * weights_TK[..., None].to(rows_RC.dtype)).sum(dim=1)


def stacked_linear(
    rows_RI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None, rows: Rows, *, grouped: bool
) -> torch.Tensor:
    """Apply to each sorted row the linear layer of its expert, in the dtype of the rows; an expert without rows has zero gradients."""
    weight_EOI = weight_EOI.to(rows_RI.dtype)
    bias_EO = None if bias_EO is None else bias_EO.to(rows_RI.dtype)
    if not grouped:
        return _one_by_one(rows_RI, weight_EOI, bias_EO, _sorting(rows).ends_E)  # pyright: ignore[reportCallIssue]  (type of the decorator)
    output_RO = nn.functional.grouped_mm(rows_RI, weight_EOI.mT, offs=_sorting(rows).ends_E)
    return output_RO if bias_EO is None else output_RO + pick(bias_EO, rows.indices_R)


@torch.compiler.disable  # the lengths of the runs differ from step to step
def _one_by_one(rows_RI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None, ends_E: torch.Tensor) -> torch.Tensor:
    biases = [None] * len(weight_EOI) if bias_EO is None else bias_EO.unbind()
    runs = rows_RI.split(_lengths(ends_E, len(rows_RI)))
    return torch.cat([nn.functional.linear(run, weight, bias) for run, weight, bias in zip(runs, weight_EOI.unbind(), biases, strict=True)])


def _lengths(ends_E: torch.Tensor, num_rows: int) -> list[int]:
    """Return the number of rows of each expert; even shares where tensors have no data, which cost as much."""
    count = len(ends_E)
    if ends_E.device.type in _WITHOUT_DATA:
        return [num_rows * (expert + 1) // count - num_rows * expert // count for expert in range(count)]
    ends = ends_E.tolist()
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _sorting(rows: Rows) -> Sorting:
    assert rows.sorting is not None, "made by Rows.sort"
    return rows.sorting


def _orders(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    sorting = _sorting(rows)
    return sorting.pairs_R, sorting.places_R


class _FanOut(torch.autograd.Function):
    """Copy each token to its rows. The gradient is a sum in a fixed order, and faster than that of indexing."""

    @staticmethod
    def forward(ctx, tokens_TC: torch.Tensor, pairs_R: torch.Tensor, places_R: torch.Tensor, num_chosen: int) -> torch.Tensor:
        ctx.save_for_backward(places_R)
        ctx.num_chosen = num_chosen
        return tokens_TC.index_select(0, pairs_R // num_chosen)

    @staticmethod
    def backward(ctx, gradient_RC: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (places_R,) = ctx.saved_tensors
        return gradient_RC.index_select(0, places_R).unflatten(0, (-1, ctx.num_chosen)).sum(dim=1), None, None, None


class _Reorder(torch.autograd.Function):
    """Permutation of rows, whose gradient is the inverse permutation."""

    @staticmethod
    def forward(ctx, rows_RC: torch.Tensor, order_R: torch.Tensor, inverse_R: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse_R)
        return rows_RC.index_select(0, order_R)

    @staticmethod
    def backward(ctx, gradient_RC: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inverse_R,) = ctx.saved_tensors
        return gradient_RC.index_select(0, inverse_R), None, None
