"""One process, DDP, FSDP2 and HSDP on any number of ranks train alike: every loss, step by step, also where experts starve."""

from functools import partial

import pytest
import torch

from tests.distributed.made_runs import ROUTING, run_rank, run_variants
from tests.processes import run_in_processes

pytestmark = pytest.mark.long

STEPS = 30
VARIANTS = [("ddp", 1), ("fsdp2", 1), ("ddp", 2), ("fsdp2", 2)]
"""Strategies, and micro-batches to a step."""
IN_PAIRS = [("hsdp", 1), ("hsdp", 2)]
"""On four ranks: two copies, each sharded over two ranks."""


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    """One process with all images of a step in one batch."""
    losses = run_rank(0)["losses"]
    assert set(losses) == {"train/loss", "train/loss/flow", "train/loss/estimate", *ROUTING}
    assert losses["train/loss"][-5:].mean() < 0.95 * losses["train/loss"][:5].mean()  # it trains
    return losses


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_train_like_one_process(reference, tmp_path, world):
    variants = VARIANTS + (IN_PAIRS if world == 4 else [])
    everyone = run_in_processes(partial(run_variants, world=world, variants=variants), tmp_path, world)
    for (strategy, window), ranks in zip(variants, zip(*everyone, strict=True), strict=True):
        assert any(not torch.equal(ranks[0]["chosen"] > 0, rank["chosen"] > 0) for rank in ranks[1:])  # ranks route differently
        assert all((rank["chosen"] == 0).any() for rank in ranks)  # experts starve
        error = torch.zeros(STEPS, dtype=torch.float64)
        for name, expected in reference.items():
            found = torch.stack([rank["losses"][name] for rank in ranks]).mean(dim=0)
            error = torch.maximum(error, (found - expected).abs() / expected.abs())
        print(f"{strategy}, {world} ranks, {window} micro-batches: {error[:5].max():.1e} in 5 steps, {error.max():.1e} in {STEPS}")
        assert error[:5].max() < 1e-5 and error.max() < 1e-3
