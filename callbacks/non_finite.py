"""NonFiniteGuard: skip optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
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

    All ranks skip together; a window of accumulated micro-batches is one step. A loss that is not finite makes all gradients NaN, and the
    reduction of the gradients takes that to all ranks, so DDP needs no further communication; a sharded model needs one all-reduced flag
    per step. A skipped step leaves weights, optimizer state and moving average unchanged. It still counts as a step of the learning-rate
    schedule and its samples count as seen, so curves are not shifted.

    With an optimizer that can skip a step on the device (``fused: true`` of PyTorch's AdamW, Adam and SGD) the host never waits: a fault is
    counted and reported one step later. With another optimizer the host reads one flag per step. Under fp16 the gradient scaler handles
    overflows of gradients, which are not faults there, and the guard checks only losses.

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
        self.skipped: bool | torch.Tensor = False
        """True if the newest optimizer step was skipped; a boolean scalar tensor where that is decided on the device."""
        self._consecutive, self._total = 0, 0
        self._window: list[tuple[list[str], torch.Tensor]] = []
        self._deferred: tuple[_Step, _OnHost] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the first point of the curve."""
        self.skipped, self._deferred = False, None
        self._window = []
        log_scalars(trainer, {"faults/skipped_steps": self._total}, trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the keys of the micro-batch whose loss follows."""
        self._keys = list(batch["key"])

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        """Check a micro-batch's loss without waiting for the device. Without a gradient scaler, a bad loss gets gradients of NaN."""
        finite = loss.detach().isfinite().all()
        self._window.append((self._keys, finite))
        if not _scaled(trainer) and loss.requires_grad:
            loss.register_hook(lambda gradient: torch.where(finite, gradient, torch.nan))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Skip the step if a gradient is not finite: on the device if the optimizer can, else by gradients set to None, which it ignores.

        Raises:
            TooManySkippedStepsError: More steps were skipped than the limits allow; on every rank.
        """
        self._settle_deferred(trainer)
        step = _Step(trainer.global_step, self._window, _logged_values(trainer))
        self._window = []
        if _scaled(trainer):
            fault = largest((~torch.stack([finite for _, finite in step.window]).all()).float()).bool()
        else:
            fault = ~finite_gradients(pl_module).to(step.window[-1][1].device)
            if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):  # else the reduced gradients are those of all ranks
                fault = largest(fault.float()).bool()
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                optimizer.found_inf = fault.float()  # type: ignore[attr-defined]  (read by the kernel that applies the step)
                self.skipped, self._deferred = fault, (step, _OnHost(fault))
                return
        self.skipped = bool(fault)  # the step's only wait for the device
        if self.skipped:
            optimizer.zero_grad(set_to_none=True)
        self._settle(trainer, step, self.skipped)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count and report the last step.

        Raises:
            TooManySkippedStepsError: More steps were skipped than the limits allow; on every rank.
        """
        self._settle_deferred(trainer)

    def _settle_deferred(self, trainer: L.Trainer) -> None:
        """Count and report the step before, if it was left to the device."""
        if self._deferred is not None:
            (step, fault), self._deferred = self._deferred, None
            self._settle(trainer, step, fault.read())

    def _settle(self, trainer: L.Trainer, step: _Step, skipped: bool) -> None:
        self._consecutive = self._consecutive + 1 if skipped else 0
        if skipped:
            self._total += 1
            log_scalars(trainer, {"faults/skipped_steps": self._total}, step.number)
            self._report(trainer, step)

    def _report(self, trainer: L.Trainer, step: _Step) -> None:
        everyone = gather(step.suspects())
        of_loss = any(everyone)
        if not of_loss:
            everyone = gather({0: ([key for keys, _ in step.window for key in keys], [])})
        what = "loss" if of_loss else "gradient, though not the loss,"
        described = f"The {what} of optimizer step {step.number + 1} is not finite ({_describe(everyone)})."
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

    def state_dict(self) -> dict[str, int]:
        """Return the number of skipped steps, the newest included."""
        return {"total": self._total + (self._deferred is not None and self._deferred[1].read())}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the number of skipped steps."""
        self._total = state_dict["total"]


@dataclass(frozen=True)
class _Step:
    """Record of an optimizer step, for reports.

    Attributes:
        number: Optimizer steps before it.
        window: Keys of each micro-batch, and a boolean scalar tensor, true if its loss is finite.
        logged: Values logged in it, by name.
    """

    number: int
    window: list[tuple[list[str], torch.Tensor]]
    logged: dict[str, torch.Tensor]

    def suspects(self) -> Suspects:
        """Return this rank's micro-batches whose loss is not finite."""
        names = sorted(name for name, value in self.logged.items() if not value.isfinite().all())
        last = len(self.window) - 1
        return {index: (keys, names if index == last else []) for index, (keys, finite) in enumerate(self.window) if not finite}


class _OnHost:
    """Copy of a boolean scalar tensor on the host, which does not wait for it until it is read."""

    def __init__(self, value: torch.Tensor) -> None:
        self._value = value.to("cpu", non_blocking=True)
        self._copied = torch.get_device_module(value.device).Event()
        self._copied.record()

    def read(self) -> bool:
        """Return the value, once the device has come to it."""
        self._copied.synchronize()
        return bool(self._value)


def skipped_step(trainer: L.Trainer) -> bool | torch.Tensor:
    """Return true if a `NonFiniteGuard` of ``trainer`` skipped the newest optimizer step; a boolean scalar if only the device knows."""
    guards = [callback for callback in connected(trainer).callbacks if isinstance(callback, NonFiniteGuard)]
    return guards[0].skipped if guards else False


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


def _logged_values(trainer: L.Trainer) -> dict[str, torch.Tensor]:
    """Return the values logged in the newest training step, by name; ``trainer.callback_metrics`` would wait for the device."""
    results = trainer.fit_loop._results
    logged = {result.meta.name: result._forward_cache for result in results.values() if result.meta.on_step}
    return {name: value for name, value in logged.items() if isinstance(value, torch.Tensor)}


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
