"""Routing losses over the micro-batches that one optimizer step accumulates."""

from __future__ import annotations

import lightning as L
import torch

from mimdit.conditioner.moe_conditioner import Conditioning
from mimdit.routing.balance import RoutingBalance


class RoutingWindow:
    """Features and degradations of the micro-batches since the last optimizer step.

    The losses are not linear in the images, so they are computed once, on the last micro-batch, from all of the window's features.
    """

    def __init__(self) -> None:
        self.earlier: list[tuple[torch.Tensor, torch.Tensor]] = []

    def reroute(self) -> list[torch.Tensor]:
        """Return ``reroute`` of `MoEConditioner.forward` for the last micro-batch: the features of the earlier ones."""
        return [features for features, _ in self.earlier]

    def add(self, conditioning: Conditioning, degradation: torch.Tensor) -> None:
        """Remember a micro-batch that is not the last."""
        self.earlier.append((conditioning.routing.features_MBF, degradation))

    def losses(self, balance: RoutingBalance, conditioning: Conditioning, degradation: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """Return the weighted losses of the window that this micro-batch ends, and begin a new one.

        The factor ``size``, the number of micro-batches, undoes Lightning's division by it, so the window's gradient equals the gradient
        of its concatenated batch.
        """
        degradation = torch.cat([*(earlier for _, earlier in self.earlier), degradation])
        self.earlier.clear()
        losses = balance(conditioning.rerouted, degradation)
        return {name: value * balance.weights[name] * size for name, value in losses.items()}


def ends_window(trainer: L.Trainer | None, batch_idx: int) -> bool:
    """Return true if the optimizer steps after this micro-batch: the window is full, or the epoch ends (Lightning steps then, too).

    ``trainer`` is None for a single step outside a Trainer, as where its FLOPs are counted.
    """
    if trainer is None:
        return True
    full = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return full or trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
