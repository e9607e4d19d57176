"""One run over two processes: what is logged is that of all images, each counted once."""

import pytest
import torch

from callbacks import ExpertUtilization, Quality
from mimdit.metrics import psnr
from mimdit.routing.utilization import UtilizationCounts, utilization
from tests.callbacks.dummy import DummyRestorer, events, loader, samples, trainer


class TwoRanks(DummyRestorer):
    """Makes sure that the test tests what it says."""

    def on_train_start(self) -> None:
        assert self.trainer.world_size == 2


def test_experts_and_quality_are_those_of_both_ranks(tmp_path):
    # Each rank gets every other sample: 6 steps of one image. Of the 11 for validation the sampler repeats the first to make 12.
    module, callbacks = TwoRanks(0.5), (ExpertUtilization(every_n_steps=6), Quality())
    trainer(tmp_path, *callbacks, strategy="ddp_spawn", devices=2, max_steps=6).fit(module, loader(batch_size=1), loader(11))
    log = events(tmp_path)

    counts = UtilizationCounts()
    counts.update(module.routing, torch.stack([sample["degradation"] for sample in samples()]))
    expected = utilization(counts)
    assert log.Scalars("experts_load/block0/spatial/e0")[0].value == pytest.approx(expected.load_MGE[0, 0, 0].item())
    assert log.Scalars("experts/nmi_mean")[0].value == pytest.approx(expected.information_MG.mean().item())

    degraded = [sample for sample in samples(11) if sample["group"] != "00Clean"]
    scores = [psnr((0.5 * sample["lq"] + 0.5 * sample["gt"])[None], sample["gt"][None]).item() for sample in degraded]
    assert log.Scalars("val/psnr_output")[0].value == pytest.approx(sum(scores) / len(scores), abs=1e-4)
