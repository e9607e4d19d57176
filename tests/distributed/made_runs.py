"""The same training on any number of ranks: eight images a step, cut into each rank's micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from callbacks import EMAUpdate
from mimdit.core.batch import Batch
from mimdit.distributed import FSDP2Strategy, WholeCheckpointIO
from mimdit.restorer.restorer import Restorer
from tests.tiny_models import randomize, tiny_batch, tiny_restorer
from tests.tiny_training import train

IMAGES = 8
"""Of one optimizer step, however many ranks and micro-batches share them."""


SGD = partial(torch.optim.SGD, lr=0.05)
ADAMW = partial(torch.optim.AdamW, lr=1e-3, eps=1e-3)  # as large an eps, or the sign of a gradient of rounding errors would move weights


def make_restorer(optimizer: Callable = SGD, **options) -> Restorer:
    """Of top-1 experts that images choose differently, with every loss there is."""
    restorer = tiny_restorer(
        conditioner={"estimate": True, "num_experts": 4, "top_k": 1, "num_blocks": 1},
        balance={"balance": 0.5, "z": 0.1, "importance": 1.0, "specialization": 0.5},
        estimate_weight=1.0,
        optimizer=optimizer,
        **options,
    )
    randomize(restorer.conditioner, 0, scale=0.3)
    return restorer


def of_rank(rank: int, world: int, window: int, steps: int, first: int = 0) -> list[Batch]:
    """The micro-batches of a rank in ``steps`` optimizer steps from step ``first`` on."""
    size = IMAGES // (world * window)
    batches = []
    for step in range(first, first + steps):
        whole = tiny_batch(IMAGES, seed=step)
        for micro in range(window):
            rows = slice((micro * world + rank) * size, (micro * world + rank + 1) * size)
            batches.append({name: value[rows] for name, value in whole.items()})
    return batches


class Losses(L.Callback):
    """Mean over each window of every loss as logged, and how often each expert was chosen in each micro-batch."""

    def __init__(self) -> None:
        self.micro: list[dict[str, float]] = []
        self.chosen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.micro.append({name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/loss")})
        intra = outputs["routing"].intra
        self.chosen.append(torch.zeros_like(intra.probs).scatter(-1, intra.indices, 1.0).sum(dim=2))

    def steps(self, window: int) -> dict[str, torch.Tensor]:
        last = self.micro[window - 1 :: window]
        losses = {}
        for name in last[0]:
            # A routing loss exists only on the last micro-batch of a window, multiplied by the window's length.
            rows = [[micro.get(name, 0.0) if name not in ROUTING else 0.0 for micro in self.micro[start : start + window - 1]]
                    + [self.micro[start + window - 1][name]] for start in range(0, len(self.micro), window)]  # fmt: skip
            losses[name] = torch.tensor(rows, dtype=torch.float64).mean(dim=1)
        return losses


ROUTING = {f"train/loss/{name}" for name in ("balance", "z", "importance", "specialization")}


def run_rank(rank: int, world: int = 1, window: int = 1, strategy: str = "auto", steps: int = 30) -> dict:
    """Train on one of ``world`` ranks."""
    losses = Losses()
    trainer = train(make_restorer(), of_rank(rank, world, window, steps), window, callbacks=[losses], **settings(strategy, world))
    assert trainer.world_size == world and trainer.global_step == steps
    return {"losses": losses.steps(window), "chosen": torch.stack(losses.chosen)}


def run_variants(rank: int, world: int, variants: list[tuple[str, int]]) -> list[dict]:
    """`run_rank` of several strategies and windows: starting a process takes longer than they do."""
    return [run_rank(rank, world, window, strategy) for strategy, window in variants]


def settings(strategy: str, world: int) -> dict:
    """Of a Trainer on ``world`` ranks of these processes."""
    if strategy == "fsdp2":
        return {"strategy": FSDP2Strategy(), "devices": world}
    if strategy == "bf16_gathers":
        return {"strategy": FSDP2Strategy(bf16_gathers=True), "devices": world}
    if strategy == "hsdp":
        return {"strategy": FSDP2Strategy(shard_over=2), "devices": world}
    return {"strategy": strategy, "devices": world, "plugins": [WholeCheckpointIO()]}


def save_and_go_on(rank: int, world: int, strategy: str, folder: str, stop: int = 3, steps: int = 6) -> dict:
    """Train to the end, and save on the way; return the losses, and what was saved, gathered."""
    kept = Gathered(f"{folder}/{strategy}.ckpt", stop)
    losses = Losses()
    train(make_restorer(ADAMW), of_rank(rank, world, 1, steps), callbacks=[EMAUpdate(), losses, kept], **settings(strategy, world))
    return {"losses": losses.steps(1), "state": kept.state, "moments": kept.moments}


def resume(rank: int, world: int, strategy: str, path: str, stop: int = 3, steps: int = 6) -> dict[str, torch.Tensor]:
    """The losses of the steps after ``stop``, with the checkpoint at ``path`` loaded into a model of other weights."""
    losses, restorer = Losses(), make_restorer(ADAMW)
    randomize(restorer.conditioner, 9)
    batches = of_rank(rank, world, 1, steps, first=stop)
    options = settings(strategy, world) | {"max_epochs": -1, "max_steps": steps, "callbacks": [EMAUpdate(), losses], "ckpt_path": path}
    trainer = train(restorer, batches, **options)
    assert trainer.global_step == steps
    return losses.steps(1)


class Gathered(L.Callback):
    """Saves at a step, and keeps beside it all weights and the optimizer's moments as each rank sees them whole."""

    def __init__(self, path: str, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            self.state = {name: whole(tensor) for name, tensor in pl_module.state_dict().items()}
            names = {parameter: name for name, parameter in pl_module.named_parameters()}
            optimizer = trainer.optimizers[0]
            self.moments = {
                names[parameter]: {key: whole(value) for key, value in optimizer.state[parameter].items()}
                for group in optimizer.param_groups
                for parameter in group["params"]
            }


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy, gathered if it is sliced."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
