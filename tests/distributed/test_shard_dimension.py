"""Weights are sharded where the ranks divide them: the gathers of the paper's conditioner carry no padding."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mimdit.distributed.fsdp2 import shard_dimension

ROOT = Path(__file__).parents[2]

GATHERED = """
import json, sys
import lightning as L, yaml
import torch.distributed as dist
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from mimdit import MoEConditioner
from mimdit.distributed.fsdp2 import shard

class Alone(L.LightningModule):
    def __init__(self, conditioner):
        super().__init__()
        self.conditioner = conditioner
    def shard_units(self):
        return self.conditioner.shard_units()
    def training_step(self, batch):
        return None

shape = tuple(json.loads(sys.argv[1]))
world = 1
for ranks in shape:
    world *= ranks
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape):])
options = yaml.safe_load(open("configs/conditioner/sd35_medium_paper.yaml"))["init_args"]
with FakeTensorMode(allow_non_fake_inputs=True):
    module = Alone(MoEConditioner(**options))
    shard(module, mesh)
    weights = list(module.parameters())
    assert all(isinstance(weight, DTensor) for weight in weights)
    # Rank 0 has the largest slice, and every rank sends as much.
    padded = sum(weight.to_local().numel() * shape[-1] for weight in weights)
    print(json.dumps([padded, sum(weight.numel() for weight in weights)]))
"""


@pytest.mark.long
@pytest.mark.parametrize("mesh", ["[64]", "[64, 8]"], ids=["64", "64x8"])
def test_gathers_of_the_papers_conditioner_are_hardly_padded(mesh):
    done = subprocess.run([sys.executable, "-c", GATHERED, mesh], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    gathered, whole = json.loads(done.stdout.splitlines()[-1])
    assert whole > 100e6 and whole <= gathered <= 1.1 * whole


@pytest.mark.parametrize(
    ("size", "ranks", "dimension"),
    [((8, 512, 256), 8, 0), ((8, 512, 256), 64, 1), ((8, 3, 256), 64, 2), ((8, 3, 5), 64, 0), ((7,), 2, 0), ((3, 5), 1, 0)],
    ids=["experts-8", "experts-64", "last", "none", "vector", "one-rank"],
)
def test_the_first_dimension_that_divides_is_taken(size, ranks, dimension):
    assert shard_dimension(size, ranks) == dimension
