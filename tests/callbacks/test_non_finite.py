"""A step that is not finite changes nothing, on no rank, and too many of them stop the run with the samples named."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks import CompleteCheckpoint, EMAUpdate, NonFiniteGuard
from callbacks.non_finite import TooManySkippedStepsError, finite_gradients
from mimdit.core.collectives import own_part
from tests.callbacks.dummy import DummyRestorer, events, loader, trainer
from tests.distributed.made_runs import ADAMW, make_restorer, of_rank, settings, whole
from tests.processes import run_in_processes
from tests.tiny_training import train


class Faulty(DummyRestorer):
    """Answers NaN, or finitely but with an infinite gradient, at the batches named."""

    def __init__(self, *batches: int, gradient: bool = False, fused: bool = False) -> None:
        super().__init__(lr=0.1, routed=False)
        self.batches, self.gradient, self.fused = batches, gradient, fused
        self.weights: list[float] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.weights.append(self.weight.item())
        loss = super().training_step(batch, batch_idx)["loss"]
        if batch_idx not in self.batches:
            return loss
        return loss + (self.weight - self.weight.detach()).sqrt() if self.gradient else loss * float("nan")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, fused=self.fused)


def fit(folder: Path, module: L.LightningModule, guard: NonFiniteGuard, *callbacks: L.Callback, **options) -> None:
    options = {"max_steps": 6, "enable_checkpointing": bool(callbacks)} | options
    trainer(folder, EMAUpdate(), guard, *callbacks, **options).fit(module, loader())


on_host_and_device = pytest.mark.parametrize("fused", [False, True])
"""The host decides to skip for a plain optimizer; a fused one skips by itself."""


@on_host_and_device
@pytest.mark.parametrize("gradient", [False, True])
def test_a_step_is_skipped_and_counted(tmp_path, gradient, fused):
    module = Faulty(2, gradient=gradient, fused=fused)
    with pytest.warns(UserWarning, match="step 3 is not finite .*keys 4, 5.* 1 in a row and 1 in all"):
        fit(tmp_path, module, NonFiniteGuard())
    steps = [a == b for a, b in zip(module.weights, module.weights[1:])]
    assert steps == [False, False, True, False, False] and module.ema.calls == [1, 2, 4, 5, 6]
    assert [(event.step, event.value) for event in events(tmp_path).Scalars("faults/skipped_steps")] == [(0, 0), (2, 1)]


@on_host_and_device
def test_the_limit_in_a_row_stops_with_checkpoint_and_keys(tmp_path, fused):
    saver = CompleteCheckpoint(2, dirpath=str(tmp_path / "kept"))
    with pytest.raises(TooManySkippedStepsError, match="keys 8, 9.*max_consecutive=1.*last good checkpoint is .*step=0000004.ckpt"):
        fit(tmp_path, Faulty(0, 3, 4, fused=fused), NonFiniteGuard(max_consecutive=1), saver)


def test_a_fault_in_the_last_step_is_reported(tmp_path):
    with pytest.raises(TooManySkippedStepsError, match="step 6 is not finite .*keys 10, 11"):
        fit(tmp_path, Faulty(5, fused=True), NonFiniteGuard(max_total=0))


@on_host_and_device
def test_the_limit_in_all_counts_through_a_resumption(tmp_path, fused):
    """The checkpoint is written right after the second fault, which a fused optimizer has not reported by then."""
    saver = CompleteCheckpoint(1, dirpath=str(tmp_path / "kept"))
    fit(tmp_path, Faulty(0, 3, fused=fused), NonFiniteGuard(max_total=2), saver, max_steps=4)
    run = trainer(tmp_path, NonFiniteGuard(max_total=2), CompleteCheckpoint(1, dirpath=str(tmp_path / "kept")), enable_checkpointing=True,
                  max_steps=6)  # fmt: skip
    with pytest.raises(TooManySkippedStepsError, match="3 in all, more than max_total=2"):
        run.fit(Faulty(4, fused=fused), loader(), ckpt_path="last")


@on_host_and_device
def test_without_a_fault_nothing_changes(tmp_path, fused):
    with_guard, without = Faulty(fused=fused), Faulty(fused=fused)
    fit(tmp_path / "with", with_guard, NonFiniteGuard())
    trainer(tmp_path / "without", max_steps=6).fit(without, loader())
    assert with_guard.weights == without.weights


def test_finite_gradients_reads_all_of_them():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 0), torch.nn.Linear(0, 1))
    assert finite_gradients(module)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 1e38)  # the square of its 2-norm would not be finite
    assert finite_gradients(module)
    for value in (float("nan"), float("inf")):
        module[0].bias.grad[1] = value
        assert not finite_gradients(module)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="max_total=-1"):
        NonFiniteGuard(max_total=-1)


class States(L.Callback):
    """Everything that a step may change, whole, at the end of each step; and what the guard said."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step > len(self.steps):
            state = {name: whole(tensor) for name, tensor in pl_module.state_dict().items()}
            moments = {f"{number}/{key}": whole(value) for number, values in enumerate(trainer.optimizers[0].state.values())
                       for key, value in values.items()}  # fmt: skip
            self.steps.append(state | moments)


class InfiniteGradient(L.Callback):
    """Makes one gradient of rank 1 infinite before the third step, in a slice of it that only this rank holds if the model is sharded."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == 2 and trainer.global_rank == 1:
            own_part(next(p.grad for p in pl_module.parameters() if p.grad is not None)).fill_(float("inf"))


def poisoned(rank: int, fused: bool) -> dict:
    """Rank 1's first micro-batch of the third of five windows holds a NaN: what stays the same over each step, and the error."""
    optimizer, found = partial(ADAMW, fused=fused), {}
    for strategy in ("ddp", "fsdp2"):
        batches = of_rank(rank, 2, 2, 5)
        if rank == 1:
            batches[4]["lq"][0, 0, 0, 0] = float("nan")
        states, run = States(), settings(strategy, 2)
        train(make_restorer(optimizer), batches, 2, callbacks=[EMAUpdate(), states, NonFiniteGuard()], gradient_clip_val=1.0, **run)
        pairs = list(zip(states.steps, states.steps[1:]))
        same = [[bool(torch.equal(before[name], after[name])) for name in before] for before, after in pairs]
        finite = all(bool(value.isfinite().all()) for value in states.steps[-1].values())
        found[strategy] = {"unchanged": [all(step) for step in same], "finite": finite}
        run = settings(strategy, 2)
        try:
            train(make_restorer(optimizer), batches, 2, callbacks=[NonFiniteGuard(max_consecutive=0)], **run)
        except TooManySkippedStepsError as error:
            found[strategy]["error"] = str(error)
    states = States()
    train(make_restorer(optimizer), of_rank(rank, 2, 2, 5), 2, callbacks=[InfiniteGradient(), EMAUpdate(), states, NonFiniteGuard()],
          **settings("fsdp2", 2))  # fmt: skip
    pairs = list(zip(states.steps, states.steps[1:]))
    found["gradient"] = [all(torch.equal(before[name], after[name]) for name in before) for before, after in pairs]
    return found


@pytest.mark.long
@on_host_and_device
def test_all_ranks_skip_together(tmp_path, fused):
    for found in run_in_processes(partial(poisoned, fused=fused), tmp_path):
        assert found["gradient"] == [False, True, False, False]
        for strategy in ("ddp", "fsdp2"):
            result = found[strategy]
            assert result["unchanged"] == [False, True, False, False] and result["finite"], result
            assert "rank 1: keys 2/" in result["error"] and "rank 0" not in result["error"]
