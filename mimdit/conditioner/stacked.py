"""Layers with weights stacked over sub-experts, applied to rows of different sub-experts without a loop and with static shapes.

A stack holds E layers of identical structure in one parameter: all sub-experts take part in every step on every rank (with a gradient of
zero where no image chose them), as DDP and FSDP require. Rows are those of `mimdit.conditioner.dispatch`.

Shape legend: B images, K chosen sub-experts per image, R = B * K rows, E sub-experts in the stack, N positions, I input and O output
channels of one sub-expert, C and J any channels.
"""

from __future__ import annotations

import torch
from torch import nn

from mimdit.conditioner.dispatch import Rows, Sorting, compute_dtype


class StackedPointwise(nn.Module):
    """E pointwise (1x1) linear layers in one parameter ``[E, O, I]``. Not in the paper."""

    def __init__(self, num_experts: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight_EOI = nn.Parameter(torch.empty(num_experts, out_channels, in_channels).uniform_(-1, 1) * in_channels**-0.5)

    def fan_out(self, images: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Apply to each of ``[B, I, H, W]`` its K chosen layers; return ``[R, O, H, W]``, channels last in memory."""
        tokens_BNI, sorting = _tokens(images), rows.sorting
        if sorting is None:
            output_RNO = _GatheredFanOut.apply(tokens_BNI, self.weight_EOI, rows.indices_R)
        else:
            output_RNO = self._grouped(tokens_BNI[sorting.pairs_R // rows.num_chosen], sorting)
        return _images(output_RNO, images)

    def fan_in(self, hidden_states: torch.Tensor, rows: Rows, weights_BK: torch.Tensor) -> torch.Tensor:
        """Apply to each row of ``[R, I, H, W]`` its layer, and sum the rows of an image weighted by their gates: ``[B, O, H, W]``."""
        tokens_RNI, sorting = _tokens(hidden_states), rows.sorting
        if sorting is None:
            output_BNO = _GatheredFanIn.apply(tokens_RNI, self.weight_EOI, weights_BK, rows.indices_R)
        else:
            weights_R = weights_BK.flatten()[sorting.pairs_R].to(tokens_RNI.dtype)
            output_RNO = self._grouped(tokens_RNI * weights_R[:, None, None], sorting)
            output_BNO = output_RNO[sorting.places_R].unflatten(0, weights_BK.shape).sum(dim=1)
        return _images(output_BNO, hidden_states)

    def _grouped(self, tokens_RNI: torch.Tensor, sorting: Sorting) -> torch.Tensor:
        # The last end must be the last row: rows past it would be left uninitialized by the product.
        ends_E, weight_EIO = sorting.ends_E * tokens_RNI.shape[1], self.weight_EOI.to(tokens_RNI.dtype).mT
        return nn.functional.grouped_mm(tokens_RNI.flatten(0, 1), weight_EIO, offs=ends_E).unflatten(0, tokens_RNI.shape[:2])


class StackedDepthwise(nn.Module):
    """E depth-wise 3x3 convolutions in one parameter ``[E, C, 1, 3, 3]``, with zero padding. Not in the paper."""

    def __init__(self, num_experts: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, channels, 1, 3, 3).uniform_(-1, 1) / 3)

    def forward(self, hidden_states: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Filter each row of ``[R, C, H, W]`` with its sub-expert."""
        weight_RC = pick(self.weight, rows.indices_R).to(hidden_states.dtype)
        return (self._beside if hidden_states.device.type == "cpu" else self._folded)(hidden_states, weight_RC)

    @staticmethod
    def _folded(hidden_states: torch.Tensor, weight_RC: torch.Tensor) -> torch.Tensor:
        """Filter all rows as channels of one image."""
        folded = hidden_states.reshape(1, -1, *hidden_states.shape[2:])
        return nn.functional.conv2d(folded, weight_RC.flatten(0, 1), padding=1, groups=folded.shape[1]).view(hidden_states.shape)

    @staticmethod
    def _beside(hidden_states: torch.Tensor, weight_RC: torch.Tensor) -> torch.Tensor:
        """Filter in channels-last memory: on a CPU up to three times as fast as `_folded`, and faster than image by image."""
        folded = hidden_states.permute(2, 3, 0, 1).flatten(2)[None].permute(0, 3, 1, 2)
        filtered = nn.functional.conv2d(folded, weight_RC.flatten(0, 1), padding=1, groups=folded.shape[1])
        by_row = filtered.squeeze(0).permute(1, 2, 0).unflatten(2, hidden_states.shape[:2])
        return by_row.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def pick(stack: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
    """Return ``stack[indices_R]``, ``[R, ...]``, for a parameter ``[E, ...]``.

    Computed as an embedding: its gradient is summed in a fixed order on every device, and faster than the gradient of indexing.
    """
    return nn.functional.embedding(indices_R, stack.reshape(len(stack), -1)).view(-1, *stack.shape[1:])


def _tokens(images: torch.Tensor) -> torch.Tensor:
    """Return ``[B, C, H, W]`` as ``[B, N, C]`` in the compute type; cast here because autocast ignores grouped products."""
    return images.permute(0, 2, 3, 1).flatten(1, 2).to(compute_dtype(images))


def _images(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return ``[B, N, C]`` as ``[B, C, H, W]``, channels last in memory."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


class _GatheredFanOut(torch.autograd.Function):
    """``weight_EOI[indices_R]`` times the tokens of each row's image; the mirror image of `_GatheredFanIn`.

    Autograd would store a copy of every row's weights for the backward pass, and return their gradient transposed; transposing it back took
    a tenth of a training step.
    """

    @staticmethod
    def forward(ctx, tokens_BNI: torch.Tensor, weight_EOI: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(tokens_BNI, weight_EOI, indices_R)
        return _repeat(tokens_BNI, indices_R) @ _gather(weight_EOI, indices_R, tokens_BNI).mT

    @staticmethod
    def backward(ctx, gradient_RNO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        tokens_BNI, weight_EOI, indices_R = ctx.saved_tensors
        for_tokens = _sum_of_products(gradient_RNO, _gather(weight_EOI, indices_R, tokens_BNI), len(tokens_BNI))
        return for_tokens, _scatter(gradient_RNO.mT @ _repeat(tokens_BNI, indices_R), weight_EOI, indices_R), None


class _GatheredFanIn(torch.autograd.Function):
    """Sum over an image's rows of ``weight_EOI[indices_R]`` times the row's tokens times its gate."""

    @staticmethod
    def forward(ctx, tokens_RNI: torch.Tensor, weight_EOI: torch.Tensor, gates_BK: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(tokens_RNI, weight_EOI, gates_BK, indices_R)
        weight_ROI = _gather(weight_EOI, indices_R, tokens_RNI, gates_BK)
        return _sum_of_products(tokens_RNI, weight_ROI.mT, len(gates_BK))

    @staticmethod
    def backward(ctx, gradient_BNO: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        tokens_RNI, weight_EOI, gates_BK, indices_R = ctx.saved_tensors
        gradient_RNO = _repeat(gradient_BNO, indices_R)
        for_tokens = gradient_RNO @ _gather(weight_EOI, indices_R, tokens_RNI, gates_BK)
        without_gate_ROI = (gradient_RNO.mT @ tokens_RNI).to(weight_EOI.dtype)
        for_gates = (without_gate_ROI * weight_EOI.index_select(0, indices_R)).sum(dim=(1, 2)).view_as(gates_BK).to(gates_BK.dtype)
        return for_tokens, _scatter(without_gate_ROI * gates_BK.view(-1, 1, 1), weight_EOI, indices_R), for_gates, None


def _repeat(tokens_BNC: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
    """Return the tokens of each row's image."""
    num_chosen = len(indices_R) // len(tokens_BNC)
    return tokens_BNC[:, None].expand(-1, num_chosen, -1, -1).flatten(0, 1)


def _gather(weight_EOI: torch.Tensor, indices_R: torch.Tensor, tokens: torch.Tensor, gates_BK: torch.Tensor | None = None) -> torch.Tensor:
    """Return the weights of each row, times its gate, in the type of ``tokens``."""
    weight_ROI = weight_EOI.index_select(0, indices_R)
    return (weight_ROI if gates_BK is None else weight_ROI * gates_BK.view(-1, 1, 1)).to(tokens.dtype)


def _scatter(weight_ROI: torch.Tensor, like_EOI: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
    """Return the sum of each sub-expert's rows; zeros for a sub-expert without rows."""
    flat = weight_ROI.flatten(1).to(like_EOI.dtype)
    return torch.ops.aten.embedding_dense_backward(flat, indices_R, len(like_EOI), -1, False).view_as(like_EOI)


def _sum_of_products(rows_RNJ: torch.Tensor, weight_RJC: torch.Tensor, batch: int) -> torch.Tensor:
    """Return ``sum_k rows[b, k] @ weight[b, k]``, ``[B, N, C]``, accumulated inside the products."""
    rows, weights = rows_RNJ.unflatten(0, (batch, -1)).unbind(1), weight_RJC.unflatten(0, (batch, -1)).unbind(1)
    total = rows[0] @ weights[0]
    for row, weight in zip(rows[1:], weights[1:]):
        total = torch.baddbmm(total, row, weight)
    return total
