"""MFU: log model FLOPs utilization."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info

from callbacks.loggers import log_scalars
from callbacks.step_timer import StepTimer
from mimdit.training.devices import peak_flops
from mimdit.training.flops import meta_twin, training_flops


class MFU(L.Callback):
    """Log the model's FLOPs per second, and their fraction of the devices' dense peak, every few optimizer steps.

    Tags: ``speed/tflops_per_second`` of all ranks together, and ``speed/mfu`` in 0..1, model FLOPs utilization (arXiv 2204.02311
    appendix B). The model's FLOPs come from `mimdit.training.flops.training_flops`: frozen weights have no weight gradients,
    recomputation in gradient checkpointing is excluded, and an encoder that runs during training is included. They are counted once for
    every batch shape, on the meta device. This takes seconds for a large model and is excluded from the times, as is validation.

    Without a known peak no ``speed/mfu`` is logged; this is reported once.

    Args:
        every_n_steps: Optimizer steps between two records, over which each averages. At each record the host waits for the device.
        peak_tflops: Dense peak of each device in TFLOP/s at the precision in use; None for the value in `mimdit.training.devices`.

    Raises:
        ValueError: ``every_n_steps`` is below 1, or ``peak_tflops`` is not positive.
    """

    def __init__(self, every_n_steps: int = 50, *, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(f"peak_tflops={peak_tflops} of MFU must be positive; leave it at null to use the table")
        self.peak_tflops = peak_tflops
        self._timer = StepTimer(every_n_steps, "MFU")
        self._costs: dict[tuple, int] = {}
        self._flops = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the model's shapes before a strategy shards it, and look up the peak."""
        if stage != "fit":
            return
        twin = meta_twin(pl_module)
        assert isinstance(twin, L.LightningModule)
        self._twin, self._costs = twin, {}
        self._peak = None if self.peak_tflops is None else self.peak_tflops * 1e12
        if self._peak is None:
            device = trainer.strategy.root_device
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            self._peak = peak_flops(name, str(trainer.precision))
            if self._peak is None:
                rank_zero_info(f"MFU: the peak of {name!r} in {trainer.precision} is not known, so no speed/mfu is logged; set peak_tflops")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer."""
        self._begin(trainer.global_step)

    def _begin(self, step: int) -> None:
        self._timer.begin(step)
        self._flops = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the FLOPs of this batch shape if it is new."""
        shape = _shape(batch)
        if shape not in self._costs:
            self._timer.pause()
            self._costs[shape] = training_flops(self._twin, batch).total
            self._timer.resume()
        self._flops += self._costs[shape]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log at the end of an interval."""
        step = trainer.global_step
        if not self._timer.ends(step):
            return
        peak = math.nan if self._peak is None else self._peak
        here = torch.tensor([self._flops / 1e12, peak / 1e12], device=trainer.strategy.root_device)
        # Reading the sums waits for the device, so the timer must be read afterwards.
        tflops, peak = trainer.strategy.reduce(here, reduce_op="sum").tolist()
        speed = tflops / self._timer.seconds()
        log_scalars(trainer, {"speed/tflops_per_second": speed} | ({} if math.isnan(peak) else {"speed/mfu": speed / peak}), step)
        self._begin(step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause the timer."""
        self._timer.pause()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Resume the timer."""
        self._timer.resume()


def _shape(batch: dict) -> tuple:
    return tuple((name, value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor))
