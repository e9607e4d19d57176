"""What differs between ranks, as logged."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch

from callbacks import RankSpread
from callbacks.rank_spread import rank_statistics
from tests.callbacks.dummy import DummyRestorer, events, loader, trainer
from tests.processes import run_in_processes


class OneSlow(DummyRestorer):
    """Rank 1 takes 50 ms longer to its loss, rank 0 a moment longer behind it."""

    def training_step(self, batch: dict, batch_idx: int) -> dict:
        assert self.trainer.world_size == 2
        time.sleep(0.05 * self.trainer.global_rank)
        return super().training_step(batch, batch_idx)


def fit_one_slow(rank: int, folder: Path) -> None:
    run = trainer(folder, RankSpread(every_n_steps=3), strategy="ddp", devices=2, max_steps=6)
    run.fit(OneSlow(), loader(batch_size=1))


@pytest.mark.long
def test_the_rank_that_the_other_waits_for_is_named(tmp_path):
    run_in_processes(partial(fit_one_slow, folder=tmp_path), tmp_path / "ranks")
    log = {tag: [entry.value for entry in events(tmp_path).Scalars(tag)] for tag in events(tmp_path).Tags()["scalars"]}
    assert log["ranks/slowest"] == [1, 1]
    assert log["ranks/seconds_to_loss_max"][1] > 0.05 > log["ranks/seconds_to_loss_min"][1]
    assert log["ranks/behind"][1] == pytest.approx(0.025, abs=0.02)
    # Both steps end together: the time that rank 0 does not need it waits.
    assert log["ranks/seconds_per_step_min"][1] > 0.05


def test_min_mean_max_and_the_slowest_are_those_of_the_table():
    # Rank 2 computes longest, but rank 1 waits for its data longer still.
    times = torch.tensor([[1.0, 0.1, 0.2], [1.2, 0.5, 0.1], [1.1, 0.0, 0.4]])
    scalars = rank_statistics(times)
    assert scalars["ranks/seconds_per_step_mean"] == pytest.approx(1.1) and scalars["ranks/data_wait_max"] == pytest.approx(0.5)
    assert scalars["ranks/seconds_to_loss_min"] == pytest.approx(0.1)
    assert scalars["ranks/slowest"] == 1 and scalars["ranks/behind"] == pytest.approx(0.7 - (0.3 + 0.7 + 0.4) / 3)


def test_validation_is_left_out(tmp_path):
    class SlowValidation(DummyRestorer):
        def validation_step(self, batch: dict, batch_idx: int) -> dict:
            time.sleep(0.2)
            return super().validation_step(batch, batch_idx)

    run = trainer(tmp_path, RankSpread(every_n_steps=4), max_steps=4, val_check_interval=2, limit_val_batches=2)
    run.fit(SlowValidation(), loader(), loader())
    log = events(tmp_path)
    assert log.Scalars("ranks/seconds_per_step_max")[0].value < 0.1 and log.Scalars("ranks/slowest")[0].value == 0
