"""The routing losses of a training step are those of the whole global batch: all ranks, all accumulated micro-batches.

The reference knows nothing of windows: one process, one forward over the concatenated images.
"""

from functools import partial

import torch

from mimdit.core.batch import Batch
from mimdit.restorer.restorer import Restorer
from tests.processes import run_in_processes
from tests.tiny_models import randomize, tiny_batch, tiny_restorer
from tests.tiny_training import gradients

WEIGHTS = {"balance": 0.5, "z": 0.1, "importance": 2.0, "specialization": 1.0}
NEGLIGIBLE = 1e-15
"""Weight of the task losses: their gradients are there, as DDP demands, and too small to matter."""


def make(**options) -> Restorer:
    losses = {"flow_weight": NEGLIGIBLE, "estimate_weight": NEGLIGIBLE}
    optimizer = partial(torch.optim.SGD, lr=0.1)
    restorer = tiny_restorer(**{"conditioner": {"estimate": True}, "balance": WEIGHTS, "optimizer": optimizer} | losses | options)
    randomize(restorer.conditioner, 0, scale=0.5)
    return restorer


def concatenated_gradient(restorer: Restorer, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Of the weighted routing losses over all images at once, for the routers."""
    images = torch.cat([batch["lq"] for batch in batches])
    routing = restorer.conditioner(restorer.backbone.encode(images)).routing
    losses = restorer.balance(routing, torch.cat([batch["degradation"] for batch in batches]))
    # The first block's features hang on no router, so with one block the forward's own record has the gradient of the detached one.
    routers = {name: p for name, p in restorer.named_parameters() if ".router." in name and p.requires_grad}
    total = sum(WEIGHTS[name] * value for name, value in losses.items())
    return dict(zip(routers, torch.autograd.grad(total, list(routers.values())), strict=True))


def relative_error(found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    return max(float((found[name] - value).abs().max() / value.abs().max()) for name, value in reference.items())


def of_rank(rank: int, window: int) -> list[Batch]:
    return [tiny_batch(2, seed=rank * window + index) for index in range(window)]


def train_one_rank(rank: int) -> list[dict[str, torch.Tensor]]:
    return [gradients(make(), of_rank(rank, window), window, strategy="ddp", devices=2)[0] for window in (1, 4)]


def test_two_processes_give_the_gradient_of_the_concatenated_batch(tmp_path):
    ranks = run_in_processes(train_one_rank, tmp_path)
    for index, window in enumerate((1, 4)):
        batches = of_rank(0, window) + of_rank(1, window)
        reference = concatenated_gradient(make(), batches)
        for rank in ranks:
            assert relative_error(rank[index], reference) < 1e-5
            others = [gradient.abs().max() for name, gradient in rank[index].items() if ".router." not in name]
            assert len(others) > 20 and max(others) < 1e-9  # the routing losses reach nothing but routers

        # The mean of each micro-batch's own gradient points elsewhere, so the comparison above can fail.
        own = [concatenated_gradient(make(), [batch]) for batch in batches]
        mean = {name: torch.stack([one[name] for one in own]).mean(0) for name in reference}
        assert relative_error(mean, reference) > 1e-2


def test_a_window_of_one_process_is_the_concatenated_batch():
    batches = [tiny_batch(2, seed=seed) for seed in range(3)]
    found = gradients(make(), batches, 3)[0]
    assert relative_error(found, concatenated_gradient(make(), batches)) < 1e-5


def test_a_window_that_the_end_of_the_epoch_cuts_short_has_its_own_routing_losses():
    """Five micro-batches in windows of two: Lightning steps after the second, the fourth and the fifth."""
    batches = [tiny_batch(2, seed=seed) for seed in range(5)]
    restorer = make(optimizer=partial(torch.optim.SGD, lr=0.0))
    steps = gradients(restorer, batches, 2)
    assert len(steps) == 3 and restorer.routing_window.earlier == []
    for found, part in zip(steps, (batches[:2], batches[2:4], batches[4:]), strict=True):
        assert relative_error(found, concatenated_gradient(make(), part)) < 1e-5


def test_without_routing_losses_no_gradient_reaches_a_router_beyond_the_tasks():
    steps = gradients(make(balance=dict.fromkeys(WEIGHTS, 0.0)), [tiny_batch(2)], 1)
    assert max(gradient.abs().max() for gradient in steps[0].values()) < 1e-9
