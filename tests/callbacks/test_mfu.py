"""Model FLOPs and their share of the peak as logged."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

import callbacks.mfu
import callbacks.step_timer
from callbacks import MFU
from mimdit.training.flops import training_flops
from tests.callbacks.dummy import events, loader, trainer
from tests.callbacks.test_throughput import Clock
from tests.processes import run_in_processes
from tests.tiny_models import tiny_batch, tiny_restorer
from tests.tiny_training import KeepGradients, gradients, train

FLOPS = 2 * 2 * 3 * 16 * 16 * 16 * 2  # a linear of 16 to 16 on the rows of two images, forward and the weight's gradient


class Rows(L.LightningModule):
    """One linear over the rows of the images; a step takes 20 ms, a validation batch half a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.linear, self.clock = nn.Linear(16, 16), clock

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.clock.now += 0.02
        return self.linear(batch["lq"]).square().mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.clock.now += 0.5

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("callbacks.step_timer.time", clock)
    return clock


def test_speed_is_flops_over_seconds_and_mfu_its_share_of_the_peak(tmp_path, clock):
    options = {"max_steps": 6, "val_check_interval": 2}
    trainer(tmp_path, MFU(every_n_steps=3, peak_tflops=1e-6), **options).fit(Rows(clock), loader(), loader())
    speed, mfu = events(tmp_path).Scalars("speed/tflops_per_second"), events(tmp_path).Scalars("speed/mfu")
    assert [entry.step for entry in speed] == [entry.step for entry in mfu] == [3, 6]
    for per_second, share in zip(speed, mfu):
        assert per_second.value == pytest.approx(FLOPS / 0.02 / 1e12)
        assert share.value == pytest.approx(FLOPS / 0.02 / 1e6)


def test_every_micro_batch_counts(tmp_path, clock):
    trainer(tmp_path, MFU(every_n_steps=1), max_steps=2, accumulate_grad_batches=3).fit(Rows(clock), loader())
    assert [entry.value for entry in events(tmp_path).Scalars("speed/tflops_per_second")] == pytest.approx([FLOPS / 0.02 / 1e12] * 2)


def test_each_shape_is_counted_once_and_off_the_clock(tmp_path, clock, monkeypatch):
    counted = []

    def count(module, batch):
        counted.append(batch["lq"].shape)
        clock.now += 7.0
        return training_flops(module, batch)

    monkeypatch.setattr(callbacks.mfu, "training_flops", count)
    # 5 images: the third batch of each epoch is smaller, and costs half.
    trainer(tmp_path, MFU(every_n_steps=3), max_steps=6).fit(Rows(clock), loader(5))
    assert [len(shape) for shape in counted] == [4, 4] and [shape[0] for shape in counted] == [2, 1]
    speed = [entry.value for entry in events(tmp_path).Scalars("speed/tflops_per_second")]
    assert speed == pytest.approx([2.5 / 3 * FLOPS / 0.02 / 1e12] * 2)


def test_without_a_known_peak_it_says_so_once_and_logs_the_speed_alone(tmp_path, clock, monkeypatch):
    said = []
    monkeypatch.setattr(callbacks.mfu, "rank_zero_info", said.append)
    trainer(tmp_path, MFU(every_n_steps=1), max_steps=3).fit(Rows(clock), loader())
    assert len(said) == 1 and "'cpu'" in said[0] and "peak_tflops" in said[0]
    assert events(tmp_path).Tags()["scalars"] == ["speed/tflops_per_second"]


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"peak_tflops": 0.0}, {"peak_tflops": -1.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MFU(**options)


def test_training_is_the_same_with_it():
    batches, keep = [tiny_batch(2, seed=seed) for seed in range(2)], KeepGradients()
    train(tiny_restorer(), batches, callbacks=[MFU(), keep])
    for expected, found in zip(gradients(tiny_restorer(), batches), keep.steps, strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def on_rank(rank: int, folder: Path) -> int:
    """Count a restorer's step on only one rank, which must not wait for others; train with twice as many images on rank 1."""
    counted = training_flops(tiny_restorer(), tiny_batch(2)).total if rank == 0 else 0
    clock = callbacks.step_timer.time = Clock()
    run = trainer(folder, MFU(every_n_steps=3, peak_tflops=1e-6), max_steps=3, strategy="ddp", devices=2, use_distributed_sampler=False)
    run.fit(Rows(clock), loader(batch_size=2 + 2 * rank))
    return counted


def test_two_ranks_share_the_work_and_the_peak(tmp_path):
    counted = run_in_processes(partial(on_rank, folder=tmp_path), tmp_path / "ranks")
    log = events(tmp_path)
    assert log.Scalars("speed/tflops_per_second")[0].value == pytest.approx((FLOPS + 2 * FLOPS) / 0.02 / 1e12)
    assert log.Scalars("speed/mfu")[0].value == pytest.approx((FLOPS + 2 * FLOPS) / 0.02 / (2 * 1e6))
    assert counted == [training_flops(tiny_restorer(), tiny_batch(2)).total, 0]
