"""Collectives over two processes, and without a process group."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from mimdit.core.collectives import gather, largest, largest_on_host, on_rank_zero, own_part
from tests.processes import run_in_processes


def together(rank: int) -> dict:
    acted = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    result = on_rank_zero(lambda: acted.append(rank) or "done")
    with pytest.raises(OSError, match="No space left"):
        on_rank_zero(fail)
    sharded = distribute_tensor(torch.arange(6.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    values = largest(torch.tensor([float(rank), 1.0 - rank])).tolist()
    return {"gathered": gather({"rank": rank}), "acted": acted, "result": result, "part": own_part(sharded).tolist(), "values": values,
            "host": [largest_on_host(10 * rank), largest_on_host(-rank)]}  # fmt: skip


def test_two_ranks_gather_act_and_fail_together(tmp_path):
    first, second = run_in_processes(together, tmp_path)
    for found in (first, second):
        assert found["values"] == [1, 1] and found["host"] == [10, 0]
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}] and found["result"] == "done"
    assert (first["acted"], second["acted"]) == ([0], [])
    assert (first["part"], second["part"]) == ([0.0, 1.0, 2.0], [3.0, 4.0, 5.0])


def test_one_process_needs_no_group():
    tensor = torch.ones(3)
    assert largest(tensor) is tensor and largest_on_host(-3) == -3
    assert gather("mine") == ["mine"] and on_rank_zero(lambda: 4) == 4 and own_part(tensor) is tensor
