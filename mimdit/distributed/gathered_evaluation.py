"""Weights gathered once for a whole validation, test or prediction, so that ranks need not run equally many forward passes."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import nn
from torch.distributed.fsdp import FSDPModule

STEPS = ("training_step", "validation_step", "test_step", "predict_step", "restore")
"""Methods called instead of ``forward`` by Lightning or a user; FSDP2 hooks must be registered for them."""


class GatheredEvaluation(L.Callback):
    """Gather the sharded weights of ``pl_module`` before the first batch of an evaluation, and shard them again after its last.

    `FSDP2Strategy` puts it before the other callbacks: weights are gathered once those have swapped in the moving average, and are sharded
    again before they swap it out or save. In between forward passes are no collectives.
    """

    def __init__(self) -> None:
        self._registered: dict[str, Any] = {}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights; a collective."""
        self._gather(pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights; a collective."""
        self._gather(pl_module)

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights; a collective."""
        self._gather(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shard the weights again."""
        self._release(pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shard the weights again."""
        self._release(pl_module)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shard the weights again."""
        self._release(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Shard the weights again, for callbacks that now swap or save them."""
        self._release(pl_module)

    def _gather(self, module: nn.Module) -> None:
        if not isinstance(module, FSDPModule):
            return
        module._get_fsdp_state()._lazy_init()  # the first forward pass would do it: units share the root's streams
        # A registered step that calls another, as `test_step` calls `restore`, would shard the root again when the inner one ends.
        for name in [name for name in STEPS if name in vars(module)]:
            self._registered[name] = vars(module).pop(name)
        module.set_reshard_after_forward(False)
        for part in _sharded(module):
            part.unshard()

    def _release(self, module: nn.Module) -> None:
        if not isinstance(module, FSDPModule) or not self._registered:
            return
        vars(module).update(self._registered)
        self._registered.clear()
        module.set_reshard_after_forward(True)
        for part in _sharded(module):
            part.reshard()


def _sharded(module: nn.Module) -> list[Any]:
    """Return the sharded modules that run; the moving average, which has no ``forward``, stays sharded."""
    return [part for part in module.modules() if isinstance(part, FSDPModule) and type(part).forward is not nn.Module.forward]
