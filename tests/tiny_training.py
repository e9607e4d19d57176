"""Quiet Trainer for tests, and the gradients of its optimizer steps."""

import lightning as L
import torch
from torch.utils.data import DataLoader

from mimdit.core.batch import Batch


class KeepGradients(L.Callback):
    """Record of every gradient of each optimizer step; None where there was none."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor | None]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        live = {name: p.grad for name, p in pl_module.named_parameters() if p.requires_grad}
        self.steps.append({name: None if gradient is None else gradient.clone() for name, gradient in live.items()})


def train(model: L.LightningModule, batches: list[Batch], window: int = 1, *, ckpt_path: str | None = None, **options) -> L.Trainer:
    """Fit ``model`` on ``batches`` once (or as ``options`` of the Trainer say), with ``window`` micro-batches to a step."""
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    settings = silent | {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "use_distributed_sampler": False} | options
    trainer = L.Trainer(accumulate_grad_batches=window, **settings)
    trainer.fit(model, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def gradients(model: L.LightningModule, batches: list[Batch], window: int = 1, **options) -> list[dict[str, torch.Tensor | None]]:
    """Return the gradients of each optimizer step of a training on ``batches``."""
    keep = KeepGradients()
    train(model, batches, window, callbacks=[keep], **options)
    return keep.steps
