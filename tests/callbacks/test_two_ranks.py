"""One run over two processes: what is logged is that of all images, each counted once."""

from functools import partial
from pathlib import Path

import pytest
import torch

from callbacks import ExpertUtilization, Quality
from mimdit.evaluation.metrics import psnr
from mimdit.routing.utilization import UtilizationCounts, utilization
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer
from tests.processes import run_in_processes


class TwoRanks(DummyRestorer):
    """Checks the precondition of the test."""

    def on_train_start(self) -> None:
        assert self.trainer.world_size == 2


def fit_two_ranks(rank: int, folder: Path) -> None:
    callbacks = (ExpertUtilization(every_n_steps=6), Quality())
    trainer(folder, *callbacks, strategy="ddp", devices=2, max_steps=6).fit(TwoRanks(0.5), loader(batch_size=1), loader(11))


def test_experts_and_quality_are_those_of_both_ranks(tmp_path):
    # Each rank gets every other sample: 6 steps of one image. Of the 11 for validation the sampler repeats the first to make 12.
    run_in_processes(partial(fit_two_ranks, folder=tmp_path), tmp_path / "ranks")
    log = events(tmp_path)

    counts = UtilizationCounts()
    counts.update(TwoRanks().routing, torch.stack([sample["degradation"] for sample in samples()]))
    expected = utilization(counts)
    assert log.Scalars("experts_load/block0/spatial/e0")[0].value == pytest.approx(expected.load_MGE[0, 0, 0].item())
    assert log.Scalars("experts/nmi_mean")[0].value == pytest.approx(expected.information_MG.mean().item())

    degraded = [sample for sample in samples(11) if sample["group"] != "00Clean"]
    scores = [psnr((0.5 * sample["lq"] + 0.5 * sample["gt"])[None], sample["gt"][None]).item() for sample in degraded]
    assert log.Scalars("val/psnr_output")[0].value == pytest.approx(sum(scores) / len(scores), abs=1e-4)
