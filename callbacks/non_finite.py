"""NonFiniteGuard: skip optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.loggers import log_scalars
from mimdit.core.collectives import gather, largest, own_part
from mimdit.core.connected_trainer import connected
from mimdit.distributed.checkpoint_files import newest_complete

_SHOWN = 8
"""Maximum number of keys that a message lists for one rank."""

Suspects = dict[int, tuple[list[str], list[str]]]
"""Suspects of one rank, by index of the micro-batch in its window: the keys, and the names of non-finite logged values."""


class TooManySkippedStepsError(ValueError):
    """More optimizer steps than allowed were not finite; the message names the samples and the last good checkpoint."""


class NonFiniteGuard(L.Callback):
    """Skip optimizer steps whose loss or gradient is NaN or infinite on any rank; stop the run when too many are skipped.

    All ranks skip together, by one all-reduced flag per step; a window of accumulated micro-batches is one step. A skipped step leaves
    weights, optimizer state and moving average unchanged. It still counts as a step of the learning-rate schedule and its samples count as
    seen, so curves are not shifted. Under fp16 the gradient scaler handles overflows of gradients, which are not faults there, and the
    guard checks only losses.

    Tag: ``faults/skipped_steps``, the number so far, logged at the start and at each skipped step. Not in the paper.

    Args:
        max_consecutive: Number of consecutive steps that may be skipped; one more stops the run.
        max_total: Number of steps that may be skipped in total, including those before a resumption; one more stops the run.

    Raises:
        ValueError: A limit is negative.
    """

    def __init__(self, max_consecutive: int = 5, max_total: int = 100) -> None:
        for name, value in (("max_consecutive", max_consecutive), ("max_total", max_total)):
            if value < 0:
                raise ValueError(f"{name}={value} of NonFiniteGuard must be at least 0; 0 stops at the first non-finite step")
        self.max_consecutive, self.max_total = max_consecutive, max_total
        self.skipped = False
        """True if the newest optimizer step was skipped."""
        self._consecutive, self._total = 0, 0
        self._window: list[tuple[list[str], torch.Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the first point of the curve."""
        self.skipped = False
        self._window.clear()
        log_scalars(trainer, {"faults/skipped_steps": self._total}, trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the keys of the micro-batch whose loss follows."""
        self._keys = list(batch["key"])

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """Check a micro-batch's loss without waiting for the device."""
        self._window.append((self._keys, loss.detach().isfinite().all()))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Reduce the flags over all ranks; to skip the step, set the gradients to None, which an optimizer ignores.

        Raises:
            TooManySkippedStepsError: More steps were skipped than the limits allow; on every rank.
        """
        finite = torch.stack([loss for _, loss in self._window]).all()
        gradient = torch.ones_like(finite) if _scaled(trainer) else finite_gradients(pl_module).to(finite.device)
        faulty = torch.stack([~finite, ~gradient]).float()
        of_loss, of_gradient = largest(faulty).bool().tolist()  # the step's only wait for the device
        self.skipped = of_loss or of_gradient
        self._consecutive = self._consecutive + 1 if self.skipped else 0
        if self.skipped:
            optimizer.zero_grad(set_to_none=True)
            self._total += 1
            log_scalars(trainer, {"faults/skipped_steps": self._total}, trainer.global_step)
            self._report(trainer, of_loss)
        self._window.clear()

    def _report(self, trainer: L.Trainer, of_loss: bool) -> None:
        everyone = gather(self._suspects(trainer) if of_loss else {0: ([key for keys, _ in self._window for key in keys], [])})
        what = "loss" if of_loss else "gradient, though not the loss,"
        described = f"The {what} of optimizer step {trainer.global_step + 1} is not finite ({_describe(everyone)})."
        if self._consecutive <= self.max_consecutive and self._total <= self.max_total:
            rank_zero_warn(f"{described} The step is skipped, {self._consecutive} in a row and {self._total} in all.")
            return
        in_a_row = self._consecutive > self.max_consecutive
        limit = f"{self._consecutive} in a row, more than max_consecutive={self.max_consecutive}"
        limit = limit if in_a_row else f"{self._total} in all, more than max_total={self.max_total}"
        good = last_good_checkpoint(trainer)
        remedy = "There is no checkpoint yet to resume from." if good is None else f"The last good checkpoint is {good}."
        raise TooManySkippedStepsError(
            f"{described} Skipped steps are {limit} of NonFiniteGuard, so training stops. {remedy} Look at these samples, and lower the "
            "learning rate or clip gradients before you resume."
        )

    def _suspects(self, trainer: L.Trainer) -> Suspects:
        """Return this rank's micro-batches whose loss is not finite."""
        logged = sorted(name for name, value in trainer.callback_metrics.items() if not value.isfinite().all())
        last = len(self._window) - 1
        return {index: (keys, logged if index == last else []) for index, (keys, finite) in enumerate(self._window) if not finite}

    def state_dict(self) -> dict[str, int]:
        """Return the number of skipped steps."""
        return {"total": self._total}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of skipped steps."""
        self._total = state_dict["total"]


def step_was_skipped(trainer: L.Trainer) -> bool:
    """Return true if a `NonFiniteGuard` of ``trainer`` skipped the newest optimizer step."""
    return any(isinstance(callback, NonFiniteGuard) and callback.skipped for callback in connected(trainer).callbacks)


def finite_gradients(module: torch.nn.Module) -> torch.Tensor:
    """Return a boolean scalar tensor, true if all gradients held by this rank are finite; no communication."""
    own = [own_part(parameter.grad) for parameter in module.parameters() if parameter.grad is not None]
    own = [gradient for gradient in own if gradient.numel()]
    if not own:
        return torch.tensor(True)
    return torch.stack(torch._foreach_norm(own, float("inf"))).isfinite().all()


def last_good_checkpoint(trainer: L.Trainer) -> Path | None:
    """Return the newest complete checkpoint of the run, or None. With a `NonFiniteGuard` its weights are finite."""
    folders = {callback.dirpath for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint) and callback.dirpath}
    found = [path for folder in sorted(folders) if (path := newest_complete(folder)) is not None]
    if found:
        return max(found, key=lambda path: path.stat().st_mtime)
    return None if trainer.ckpt_path is None else Path(trainer.ckpt_path)


def _scaled(trainer: L.Trainer) -> bool:
    """Return true if a gradient scaler is in use, which skips steps itself."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _describe(everyone: list[Suspects]) -> str:
    """Name the first micro-batch that went non-finite, and the ranks whose logged values are not bad everywhere.

    A loss on statistics of all ranks, such as a routing loss, spreads one rank's fault to the others at the end of the window.
    """
    first = min(index for suspects in everyone for index in suspects)
    ranks = {rank: suspects[first] for rank, suspects in enumerate(everyone) if first in suspects}
    everywhere = set.intersection(*(set(logged) for _, logged in ranks.values())) if len(ranks) == len(everyone) else set()
    culprits = {rank: found for rank, found in ranks.items() if set(found[1]) - everywhere} or ranks
    return "; ".join(f"rank {rank}: {_listed(*found)}" for rank, found in culprits.items())


def _listed(keys: list[str], logged: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return (f"{', '.join(logged)} of " if logged else "") + f"keys {', '.join(keys[:_SHOWN])}{more}"
