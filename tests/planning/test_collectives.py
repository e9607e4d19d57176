"""Bytes of a sharded step: predicted on shapes, against what PyTorch's profiler records in a real run of two processes."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile

from mimdit.distributed.fsdp2 import shard
from mimdit.planning.collectives import Collective
from mimdit.planning.fake_step import Settings, count
from mimdit.planning.first_chunk import FirstChunk
from mimdit.planning.model_shapes import Data
from mimdit.restorer.restorer import Restorer
from tests.processes import run_in_processes
from tests.tiny_models import tiny_batch, tiny_restorer

KINDS = {
    "c10d::_allgather_base_": ("all-gather", 0),
    "c10d::_reduce_scatter_base_": ("reduce-scatter", 1),
}
"""Collectives of PyTorch by the profiler's names, and the places of the whole tensors among their arguments."""


def made_restorer() -> Restorer:
    """Of widths that two ranks divide and of some that they do not."""
    restorer = tiny_restorer(backbone={"dtype": "bfloat16"}, conditioner={"dim": 8, "num_experts": 3})
    restorer.log = restorer.log_dict = lambda *args, **options: None
    return restorer


def real_step(rank: int) -> list[tuple[str, int]]:
    """Kind and bytes of each collective in the second step."""
    restorer = made_restorer().train()
    shard(restorer, init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",)))
    optimizer = restorer.configure_optimizers()["optimizer"]
    for step in range(2):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            with torch.autocast("cpu", torch.bfloat16):
                loss = restorer.training_step(tiny_batch(2, 16, seed=rank), step)["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            dist.barrier()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() in KINDS]
    return [(kind, _bytes(event, place)) for event in events for kind, place in [KINDS[event.name()]]]


def _bytes(event, place: int) -> int:
    return math.prod(event.shapes()[place]) * {"float": 4, "c10::BFloat16": 2}[event.dtypes()[place]]


@pytest.mark.long
def test_the_bytes_are_those_of_a_real_run(tmp_path):
    with torch.device("meta"):
        shapes = made_restorer()
    predicted = count(shapes, Data(2, 16, False), Settings("cpu", "bf16-mixed", 1.0, ranks=2)).collectives
    for rank in run_in_processes(real_step, tmp_path):
        for kind in ("all-gather", "reduce-scatter"):
            counted = [(row["size"], row["calls"]) for row in predicted if row["kind"] == kind]
            real = [size for name, size in rank if name == kind]
            assert sorted(size for size, calls in counted for _ in range(calls)) == sorted(real), kind
            assert real


def test_the_first_chunk_is_that_of_rank_0():
    def counted() -> list[dict]:
        with torch.device("meta"):
            shapes = made_restorer()
        return count(shapes, Data(2, 16, False), Settings("cpu", "bf16-mixed", 1.0, ranks=5), steps=1).collectives

    tensor = torch.arange(14.0).reshape(7, 2)
    with FirstChunk():
        chunks = torch.chunk(tensor, 5, dim=0)
    assert len(chunks) == 5 and torch.equal(chunks[0], torch.chunk(tensor, 5, dim=0)[0])
    fast = counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimdit.planning.fake_step.FirstChunk", nullcontext)
        assert counted() == fast


@pytest.mark.parametrize(("kind", "sent"), [("all-gather", 75.0), ("reduce-scatter", 75.0), ("all-reduce", 150.0)])
def test_a_ring_sends_the_shares_of_the_others(kind, sent):
    assert Collective(kind, "float32", 100, 4).sent == sent
