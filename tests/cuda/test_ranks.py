"""DDP and FSDP2 on one rank over NCCL: the losses of a single process."""

import pytest
import torch
import torch.distributed as dist

from tests.cuda.devices import BACKEND, DEVICE, assert_near
from tests.distributed.made_runs import Losses, make_restorer, of_rank, settings
from tests.processes import run_in_processes
from tests.tiny_training import train

pytestmark = pytest.mark.cuda

STEPS = 2


def losses(strategy, precision):
    recorded = Losses()
    trainer = train(
        make_restorer(),
        of_rank(0, 1, 1, STEPS),
        callbacks=[recorded],
        accelerator=DEVICE.type,
        precision=precision,
        **settings(strategy, 1),
    )
    assert trainer.global_step == STEPS and trainer.strategy.root_device.type == DEVICE.type
    return recorded.steps(1)


def runs(rank):
    assert dist.get_backend() == BACKEND
    found = {"32-true": {}, "bf16-mixed": {}}
    for precision, by_strategy in found.items():
        for strategy in ("auto", "ddp", "fsdp2"):
            by_strategy[strategy] = losses(strategy, precision)
    return found


def test_ddp_and_fsdp2_on_one_rank_have_the_losses_of_a_single_process(tmp_path):
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    found = run_in_processes(runs, tmp_path, 1, backend=BACKEND)[0]
    for precision, bound in (("32-true", 1e-4), ("bf16-mixed", 0.02)):
        by_strategy = found[precision]
        assert len(by_strategy["auto"]) > 4 and all(len(values) == STEPS for values in by_strategy["auto"].values())
        for strategy in ("ddp", "fsdp2"):
            assert_near(by_strategy[strategy], by_strategy["auto"], bound)
