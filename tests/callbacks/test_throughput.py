"""Speed and gradient norms as logged."""

import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import Throughput
from callbacks.throughput import gradient_norm
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer


class Clock:
    """Clock that moves only when set."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Slow(DummyRestorer):
    """Works 20 ms a step and validates for half a second a batch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        self.clock.now += 0.02
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: dict, batch_idx: int) -> dict:
        self.clock.now += 0.5
        return super().validation_step(batch, batch_idx)


class Waiting(list):
    """Samples that take 30 ms each to read."""

    clock: Clock

    def __getitem__(self, index: int) -> dict:
        self.clock.now += 0.03
        return super().__getitem__(index)


def test_waiting_and_speed_are_those_of_the_clock_and_validation_is_left_out(tmp_path, monkeypatch):
    clock, reading = Clock(), Waiting(samples())
    reading.clock = clock
    monkeypatch.setattr("callbacks.step_timer.time", clock)
    run = trainer(tmp_path, Throughput(every_n_steps=3), max_steps=6, val_check_interval=2)
    run.fit(Slow(clock), DataLoader(reading, batch_size=2), loader())
    log = events(tmp_path)
    # Per step 2 x 30 ms of reading and 20 ms of work.
    for entry, step in zip(log.Scalars("speed/seconds_per_step"), (3, 6), strict=True):
        assert (entry.step, entry.value) == (step, pytest.approx(0.08))
    assert log.Scalars("speed/images_per_second")[1].value == pytest.approx(2 / 0.08)
    assert log.Scalars("speed/data_wait")[1].value == pytest.approx(0.06 / 0.08)


def test_grad_norm_is_taken_before_clipping(tmp_path):
    module = DummyRestorer(0.5)
    trainer(tmp_path, Throughput(every_n_steps=2), max_steps=2, gradient_clip_val=1e-6).fit(module, loader())
    batch = samples()[2:4]
    error = torch.stack([s["gt"] - s["lq"] for s in batch]).square().mean().item()
    entries = events(tmp_path).Scalars("train/grad_norm")
    assert [entry.step for entry in entries] == [2]
    assert entries[0].value == pytest.approx(2 * 0.5 * error, rel=1e-5)


def test_gradient_norm_is_that_of_all_gradients_in_one_vector():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    module[0].requires_grad_(False)
    module(torch.ones(5, 3)).square().sum().backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in module[1].parameters()])
    torch.testing.assert_close(gradient_norm(module), flat.norm())
