"""Two training steps on shapes: peak memory, operators and collectives of a rank, through the project's own model and sharding."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from mimdit.distributed.fsdp2 import shard
from mimdit.planning import simulated_gpu
from mimdit.planning.collectives import CollectiveCounter, as_rows
from mimdit.planning.first_chunk import FirstChunk
from mimdit.planning.kernels import KernelCounter
from mimdit.planning.model_shapes import Data, make_batch, place
from mimdit.planning.storage_tracker import StorageTracker
from mimdit.training.ema import ExponentialMovingAverage

STEPS = 2
"""The first makes the optimizer's states; the second is counted."""


@dataclass(frozen=True)
class Settings:
    """Settings of the counted rank.

    Attributes:
        device: ``cpu``, or `mimdit.planning.simulated_gpu.NAME` for a GPU.
        precision: The Trainer's precision.
        clip: The Trainer's ``gradient_clip_val``; None for no clipping.
        micro_batches: The Trainer's ``accumulate_grad_batches``.
        ranks: Ranks of the run, if they shard the model; 1 for a whole copy.
        copies: Sharded copies of the model that the ranks hold, each on consecutive ones.
    """

    device: str
    precision: str
    clip: float | None
    micro_batches: int = 1
    ranks: int = 1
    copies: int = 1


@dataclass(frozen=True)
class Counted:
    """Counts of one rank.

    Attributes:
        peak: Bytes of live tensors at most.
        resident: Bytes between two steps: weights, gradients, states, average.
        trained: Bytes of the gradients, of whole weights.
        buffers: Bytes of the buffers, which DDP can broadcast.
        padding: Bytes of the sharded weights with padding over those without: 1.0 where every rank's share is full.
        flops: Floating-point operations of the model in an optimizer step: without recomputation, as `mimdit.training.flops` counts.
        kernels: Rows of `mimdit.planning.kernels.Kernel` with ``calls``, of an optimizer step, and ``late_calls``: those of them after the
            first gradient, beside which gradients are sent.
        views: Operators of an optimizer step that start no kernel.
        waits: Values of an optimizer step that the host reads.
        collectives: Rows of `mimdit.planning.collectives.as_rows`, of an optimizer step.
    """

    peak: int
    resident: int
    trained: int
    buffers: int
    padding: float
    flops: int
    kernels: list[dict[str, Any]]
    views: int
    waits: int
    collectives: list[dict[str, Any]]


def count(module: L.LightningModule, data: Data, settings: Settings, steps: int = STEPS) -> Counted:
    """Run ``steps`` optimizer steps of a model on the meta device, which is changed, and return what was counted in the last.

    A single step, whose peak lacks the optimizer's states, does for the collectives.

    The order within a step is that of Lightning's Trainer with automatic optimization, with `callbacks.EMAUpdate`; other callbacks,
    validation and DDP's buckets are not in it.
    """
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    buffers = sum(buffer.nbytes for buffer in module.buffers())
    fake = simulated_gpu.ShapesOnly(allow_non_fake_inputs=True)
    tracker = StorageTracker(settings.device, block=1 if settings.device == "cpu" else 512)
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        mesh = stack.enter_context(_mesh(settings))
        stack.enter_context(fake)
        stack.enter_context(tracker)
        run = _Run(module, data, settings, mesh)
        gc.collect()  # whole weights that only cycles still hold
        kernels, collectives = KernelCounter(settings.device), CollectiveCounter()
        for step in range(steps):
            if step == steps - 1:
                kernels.reset()
                collectives.found.clear()
                tracker.peak = tracker.live
            with collectives, kernels:
                run.step(step, kernels)
        resident, padding = tracker.live, _padding(module)
    rows = [asdict(kernel) | {"calls": calls, "late_calls": kernels.late[kernel]} for kernel, calls in kernels.found.items()]
    counts = {"flops": kernels.flops, "kernels": rows, "views": kernels.views, "waits": kernels.waits}
    return Counted(tracker.peak, resident, trained, buffers, padding, **counts, collectives=as_rows(collectives.found))


class _Run:
    """A model with its optimizer, placed and sharded."""

    def __init__(self, module: L.LightningModule, data: Data, settings: Settings, mesh: DeviceMesh | None) -> None:
        self.module, self.settings = module.train(), settings
        if settings.precision in ("bf16-true", "16-true"):
            module.to(_half(settings.precision))
        place(module, settings.device)
        if mesh is not None:
            with FirstChunk():
                shard(module, mesh)
        self.optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index]
        self.batch = make_batch(module, data, settings.device)
        self.averages = [part for part in module.modules() if isinstance(part, ExponentialMovingAverage)]

    def step(self, number: int, kernels: KernelCounter) -> None:
        """Run an optimizer step."""
        weights = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for micro in range(self.settings.micro_batches):
            with self._autocast():
                output: Any = self.module.training_step(self.batch, number)
            loss = output["loss"] / self.settings.micro_batches
            if micro == 0:  # Lightning frees gradients after the first forward pass
                self.optimizer.zero_grad()
            kernels.in_backward = True
            last = micro == self.settings.micro_batches - 1
            hooks = [weight.register_post_accumulate_grad_hook(lambda _: setattr(kernels, "is_late", True)) for weight in weights if last]
            loss.backward()
            kernels.in_backward = kernels.is_late = False
            for hook in hooks:
                hook.remove()
        if self.settings.clip:
            foreach = True if self.settings.device == simulated_gpu.NAME and self.settings.ranks == 1 else None  # PyTorch's choice on a GPU
            torch.nn.utils.clip_grad_norm_(weights, self.settings.clip, foreach=foreach)
        self.optimizer.step()
        for average in self.averages:
            average.update(number)

    def _autocast(self) -> AbstractContextManager:
        if not self.settings.precision.endswith("-mixed"):
            return nullcontext()
        return torch.autocast(self.settings.device, _half(self.settings.precision))


def _padding(module: L.LightningModule) -> float:
    sharded = [parameter for parameter in module.parameters() if isinstance(parameter, DTensor)]
    padded = sum(parameter.nbytes * _padded(parameter) for parameter in sharded)
    return padded / sum(parameter.nbytes for parameter in sharded) if sharded else 1.0


def _padded(parameter: DTensor) -> float:
    """Return the size of a weight whose shares are padded to that of rank 0, over its own."""
    padded = 1.0
    for dimension, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            size, ranks = parameter.shape[placement.dim], parameter.device_mesh.size(dimension)
            padded *= -(-size // ranks) * ranks / size
    return padded


def _half(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision.startswith("bf16") else torch.float16


@contextmanager
def _mesh(settings: Settings) -> Iterator[DeviceMesh | None]:
    """Yield the mesh of ``settings.ranks`` ranks of which only this one exists: its collectives return at once. None for one rank."""
    if settings.ranks == 1:
        yield None
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=settings.ranks)
    try:
        if settings.copies == 1:
            yield init_device_mesh(settings.device, (settings.ranks,), mesh_dim_names=("data_parallel",))
        else:
            shape = (settings.copies, settings.ranks // settings.copies)
            yield init_device_mesh(settings.device, shape, mesh_dim_names=("replicate", "shard"))
    finally:
        dist.destroy_process_group()
