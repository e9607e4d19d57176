"""Exponential moving average of the trainable weights, as a sub-module: checkpoints and sharding treat it like any other weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mimdit.core.collectives import own_part


class ExponentialMovingAverage(nn.Module):
    """Frozen fp32 copies of the trainable parameters of ``model``, under the same names with ``/`` for ``.``.

    Args:
        model: Model whose parameters are averaged: those that require gradients.
        decay: Weight of the past, in [0, 1); early on ``(1 + step) / (10 + step)`` where that is smaller, as in diffusers' EMAModel.

    Raises:
        ValueError: ``decay`` is out of range.
    """

    _model: nn.Module

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay={decay} is outside [0, 1); 0.999 is usual")
        self.decay = decay
        live = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.average = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(parameter.detach().clone(), requires_grad=False) for name, parameter in live.items()}
        )
        # Not a sub-module: the live parameters belong to their own module only.
        object.__setattr__(self, "_model", model)

    def _apply(self, fn, recurse: bool = True) -> ExponentialMovingAverage:
        """Follow the model to its device, but stay in fp32: in bf16 a step of a thousandth is lost to rounding, so nothing would move."""
        super()._apply(fn, recurse)
        for average in self.average.values():
            average.data = average.data.float()
        return self

    def _pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        live = dict(self._model.named_parameters())
        names = list(self.average)
        # A sharded average is sliced like the live weights, so no communication is needed.
        return [own_part(self.average[name].data) for name in names], [own_part(live[name.replace("/", ".")].data) for name in names]

    @torch.no_grad()
    def update(self, step: int, *, skipped: torch.Tensor | None = None) -> None:
        """Move the average toward the live weights; ``step`` is the number of optimizer steps done, 1 after the first.

        Args:
            step: Number of optimizer steps done.
            skipped: Boolean scalar tensor; where it is true the average stays. The host does not wait for it. None for false.
        """
        average, live = self._pairs()
        fraction = 1 - min(self.decay, (1 + step) / (10 + step))
        if skipped is None:
            torch._foreach_lerp_(average, [weight.float() for weight in live], fraction)
            return
        change = torch._foreach_sub([weight.float() for weight in live], average)
        torch._foreach_mul_(change, fraction * ~skipped)
        torch._foreach_add_(average, change)

    @torch.no_grad()
    def restart(self) -> None:
        """Set the average to the live weights, which were loaded after it was made."""
        average, live = self._pairs()
        torch._foreach_copy_(average, live)

    @torch.no_grad()
    def adopt(self) -> None:
        """Set the live weights to the average, for inference; the former live weights are lost."""
        average, live = self._pairs()
        torch._foreach_copy_(live, average)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights in place; a second call undoes the first, up to the rounding of live weights in bf16."""
        for average, live in zip(*self._pairs()):
            held = live.clone()
            live.copy_(average)
            average.copy_(held)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchange live and averaged weights for the duration of the context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
