"""Optimization: parameter groups, and learning-rate schedules."""

from __future__ import annotations

import math

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import nn


def parameter_groups(model: nn.Module) -> list[dict]:
    """Return the trainable parameters in two groups, the second without weight decay.

    The second holds parameters with at most one axis longer than 1 (biases, scales of norms) and the routers: a sub-expert without gradient
    still decays slowly toward zero under AdamW, but the gate that could select it again does not.
    """
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = sum(size > 1 for size in parameter.shape) <= 1
            (spared if vector or ".router." in name else decayed).append(parameter)
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def optimizer_and_schedule(model: nn.Module, make_optimizer: OptimizerCallable, make_scheduler: LRSchedulerCallable | None) -> dict:
    """Return the ``configure_optimizers`` dictionary for the trainable parameters of ``model``; the schedule advances every step."""
    optimizer = make_optimizer(parameter_groups(model))
    if make_scheduler is None:
        return {"optimizer": optimizer}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make_scheduler(optimizer), "interval": "step"}}


def clip_gradients(module: L.LightningModule, optimizer: torch.optim.Optimizer, value: float | None, algorithm: str | None) -> None:
    """Clip gradients as the Trainer is configured, also for fused optimizers in bf16-mixed.

    Call it in `LightningModule.configure_gradient_clipping`. Lightning refuses those: it takes a fused optimizer for one that undoes a
    gradient scaler's factor, but bf16 has no scaler.
    """
    plugin = module.trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
        Precision.clip_gradients(plugin, optimizer, value or 0.0, GradClipAlgorithmType(algorithm or "norm"))
    else:
        module.clip_gradients(optimizer, value, algorithm)


class WarmupCosine(torch.optim.lr_scheduler.LambdaLR):
    """Linear warm-up, then a half cosine down to ``floor`` times the learning rate.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the whole run; past it the floor holds.
        warmup_steps: Steps of the warm-up.
        floor: Final share of the learning rate, 0..1.

    Raises:
        ValueError: The warm-up is at least as long as the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: int, *, warmup_steps: int = 100, floor: float = 0.01) -> None:
        if total_steps <= warmup_steps:
            raise ValueError(f"total_steps={total_steps} must exceed warmup_steps={warmup_steps}; train longer, or warm up for fewer steps")

        def share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, share)


class WarmupConstantDecay(torch.optim.lr_scheduler.LambdaLR):
    """Linear warm-up, a constant rate, then a linear decay to ``floor`` times the rate in the last steps (arXiv 2405.18392).

    A run at its constant rate can be prolonged, or ended early by a decay from any of its checkpoints.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of the whole run; past it the floor holds.
        warmup_steps: Steps of the warm-up.
        decay_steps: Steps of the decay, the last of the run.
        floor: Final share of the learning rate, 0..1.

    Raises:
        ValueError: Warm-up and decay together are longer than the run.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, total_steps: int, *, warmup_steps: int = 100, decay_steps: int = 500, floor: float = 0.01
    ) -> None:
        if warmup_steps + decay_steps > total_steps:
            lengths = f"warmup_steps={warmup_steps} and decay_steps={decay_steps}"
            raise ValueError(f"{lengths} do not fit into total_steps={total_steps}; shorten them, or train longer")

        def share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            left = max(0, total_steps - step) / max(1, decay_steps)
            return floor + (1 - floor) * min(1.0, left)

        super().__init__(optimizer, share)
