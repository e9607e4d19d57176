"""MFU: how much of what the devices can do goes into the model."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from callbacks.step_timer import Span, log_scalars
from mimdit.training.devices import peak_flops
from mimdit.training.flops import meta_twin, training_flops


class MFU(L.Callback):
    """Log the model's own arithmetic per second, and its share of the devices' dense peak, every few optimiser steps.

    Tags: ``speed/tflops_per_second`` of all ranks together, and ``speed/mfu`` in 0..1, model FLOPs utilisation (arXiv 2204.02311
    appendix B). The model's FLOPs are those of `mimdit.training.flops.training_flops`: frozen weights cost no gradient of theirs,
    recomputation in gradient checkpoints is left out, an encoder that runs while training counts. They are counted once for every shape of
    batch, on the meta device, which takes seconds for a large model and is left out of the times, as is validation.

    Without a known peak no ``speed/mfu`` is logged, which is said once.

    Args:
        every_n_steps: Optimiser steps between two records, and the span that each averages over. At its end the host waits for the device.
        peak_tflops: Dense peak of each device in TFLOP/s at the precision in use; None for that of `mimdit.training.devices`.

    Raises:
        ValueError: ``every_n_steps`` is below 1, or ``peak_tflops`` is not positive.
    """

    def __init__(self, every_n_steps: int = 50, *, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"peak_tflops={peak_tflops} of MFU must be positive; leave it at null for the table's")
        self.peak_tflops = peak_tflops
        self._span = Span(every_n_steps, "MFU")
        self._costs: dict[tuple, int] = {}
        self._flops = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the model's shapes, before a strategy shards it, and look the peak up."""
        if stage != "fit":
            return
        self._twin, self._costs = meta_twin(pl_module), {}
        self._peak = None if self.peak_tflops is None else self.peak_tflops * 1e12
        if self._peak is None:
            device = trainer.strategy.root_device
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            self._peak = peak_flops(name, str(trainer.precision))
            if self._peak is None:
                rank_zero_info(f"MFU: the peak of {name!r} in {trainer.precision} is not known, so no speed/mfu is logged; set peak_tflops")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begin(trainer.global_step)

    def _begin(self, step: int) -> None:
        self._span.begin(step)
        self._flops = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the cost of this shape of batch, if it is new."""
        shape = _shape(batch)
        if shape not in self._costs:
            self._span.pause()
            self._costs[shape] = training_flops(self._twin, batch).total
            self._span.resume()
        self._flops += self._costs[shape]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """At the end of a span log."""
        step = trainer.global_step
        if not self._span.ends(step):
            return
        peak = math.nan if self._peak is None else self._peak
        here = torch.tensor([self._flops / 1e12, peak / 1e12], device=trainer.strategy.root_device)
        # Reading the sums waits for the device: the clock is read after that, or it would stop before the work is done.
        tflops, peak = trainer.strategy.reduce(here, reduce_op="sum").tolist()
        speed = tflops / self._span.seconds()
        log_scalars(trainer, {"speed/tflops_per_second": speed} | ({} if math.isnan(peak) else {"speed/mfu": speed / peak}), step)
        self._begin(step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._span.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let it go on."""
        self._span.resume()


def _shape(batch: dict) -> tuple:
    return tuple((name, value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor))
