"""Optional parts of a restorer over two ranks: DDP finds no unused parameter, and FSDP2 trains and validates alike."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from mimdit.restorer.restorer import Restorer
from tests.distributed.made_runs import SGD, of_rank, settings
from tests.processes import run_in_processes
from tests.tiny_models import randomize, tiny_batch, tiny_restorer
from tests.tiny_training import KeepGradients, train

STEPS = 2  # DDP complains of a parameter without a gradient in the step after


def anchored() -> Restorer:
    """An anchored restorer that identifies."""
    restorer = tiny_restorer(
        backbone={"trainable": True, "prediction": "sample"},
        conditioner={
            "estimate": True, "tone_powers": [1], "identify": True, "identify_statistics": True, "confidence": True,
            "moe_dim": 12, "feed_forward": "conv",
        },
        anchor="estimate",
        identify_weight=1.0,
        optimizer=SGD,
    )  # fmt: skip
    for seed, part in enumerate((restorer.conditioner, restorer.output_layer)):
        randomize(part, seed, scale=0.1)
    return restorer


def prototyped() -> Restorer:
    """A restorer whose gates are cosines to prototypes, with both of their losses."""
    conditioner = {"router": "prototype", "learn_temperature": True}
    restorer = tiny_restorer(conditioner=conditioner, balance={"contrast": 0.5, "guide": 0.5}, optimizer=SGD)
    randomize(restorer.conditioner, 0)
    return restorer


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def run(rank: int, world: int, strategy: str, make: Callable[[], Restorer]) -> dict:
    restorer, keep = make(), KeepGradients()
    trainer = train(restorer, of_rank(rank, world, 1, STEPS), callbacks=[keep], **settings(strategy, world))
    trainer.validate(restorer, DataLoader([tiny_batch(2)], batch_size=None), verbose=False)
    if strategy == "fsdp2" and make is anchored:
        for part in (restorer.output_layer, *(block.coarse.feed_forward for block in restorer.conditioner.blocks)):
            assert all(isinstance(parameter, DTensor) for parameter in part.parameters())
    return {
        "gradients": [{name: whole(gradient) for name, gradient in step.items()} for step in keep.steps],
        "weights": {name: whole(parameter) for name, parameter in restorer.named_parameters()},
    }


def both(rank: int, make: Callable[[], Restorer]) -> tuple[dict, dict]:
    return run(rank, 2, "ddp", make), run(rank, 2, "fsdp2", make)


PARTS = {
    anchored: {"output_layer.weight", "conditioner.identification.network.0.weight"},
    prototyped: {"conditioner.blocks.0.inter_moe.router.prototypes_NP", "conditioner.blocks.0.inter_moe.router.log_temperature"},
}
"""Weights of the parts that are tested, which must have gradients."""


@pytest.mark.parametrize("make", [anchored, pytest.param(prototyped, marks=pytest.mark.long)])
def test_two_ranks_train_like_one_process(tmp_path, make):
    one = run(0, 1, "auto", make)
    assert PARTS[make] <= set(one["gradients"][0])
    for ranks in run_in_processes(partial(both, make=make), tmp_path):
        for two in ranks:
            for found, expected in zip(two["gradients"], one["gradients"], strict=True):
                assert found.keys() == expected.keys()
                for name, gradient in expected.items():
                    torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7, msg=name)
            torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-4, atol=1e-6)
