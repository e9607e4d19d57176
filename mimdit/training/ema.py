"""An exponential moving average of what trains, as a sub-module: checkpoints and sharding treat it like any other weights."""

from __future__ import annotations

import torch
from torch import nn

from mimdit.core.collectives import own_part


class ExponentialMovingAverage(nn.Module):
    """Frozen copies of the trainable parameters of ``model``, named as they are there with ``/`` for ``.``.

    Args:
        model: Whose parameters are averaged; only those that require gradients.
        decay: Weight of the past, in 0..1; early on ``(1 + step) / (10 + step)`` where that is smaller, as in diffusers' EMAModel.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay={decay} is outside [0, 1)")
        self.decay = decay
        live = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.average = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(parameter.detach().clone(), requires_grad=False) for name, parameter in live.items()}
        )
        # Not a sub-module: the live parameters belong to their own module alone.
        object.__setattr__(self, "_model", model)

    def _apply(self, fn, recurse: bool = True) -> ExponentialMovingAverage:
        """Follow the model to its device, but stay in fp32: in bf16 a step of a thousandth is lost to rounding, and nothing ever moves."""
        super()._apply(fn, recurse)
        for average in self.average.values():
            average.data = average.data.float()
        return self

    def _pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        live = dict(self._model.named_parameters())
        names = list(self.average)
        # Sharded, the average is sliced as the live weights are, so no rank needs another.
        return [own_part(self.average[name].data) for name in names], [own_part(live[name.replace("/", ".")].data) for name in names]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the live weights after optimiser step ``step``."""
        average, live = self._pairs()
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [weight.float() for weight in live], 1 - decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Let the average be the live weights, which were read after it was made."""
        average, live = self._pairs()
        torch._foreach_copy_(average, live)

    @torch.no_grad()
    def adopt(self) -> None:
        """Let the live weights be the average, for use: the live ones are gone."""
        average, live = self._pairs()
        torch._foreach_copy_(live, average)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights in place; a second call undoes the first, to the rounding of live weights in bf16."""
        for average, live in zip(*self._pairs()):
            held = live.clone()
            live.copy_(average)
            average.copy_(held)
