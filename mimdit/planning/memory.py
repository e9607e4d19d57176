"""Memory of a GPU in training: the peak of a strategy, whether it fits, the largest batch that does, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mimdit.planning.assumptions import Assumption
from mimdit.planning.hardware import GPUS, Gpu
from mimdit.planning.run_config import RunConfig

GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Memory that a rank needs.

    Attributes:
        peak: Bytes of live tensors at most, with DDP's buckets.
        resident: Bytes of them between two steps.
        image: Bytes that an image more in the micro-batch adds to the peak.
        several: If true, there are several ranks, and NCCL's buffers.
    """

    peak: float
    resident: float
    image: float
    several: bool

    def of_batch(self, change: int) -> Need:
        """Return the need with ``change`` images more."""
        return Need(self.peak + change * self.image, self.resident, self.image, self.several)

    def whole(self, assumed: Mapping[str, Assumption], end: str) -> float:
        """Return all bytes of the process, ``best`` or ``worst``: what the allocator reserves, CUDA's context, NCCL."""
        outside = getattr(assumed["context"], end) + (getattr(assumed["nccl"], end) if self.several else 0.0)
        return self.peak * (1 + getattr(assumed["fragments"], end)) + outside * GIB


def bucket_bytes(run: RunConfig, trained: int, ranks: int) -> int:
    """Return the bytes that DDP adds to a rank.

    Its buckets hold the gradients again, and the real allocator showed the same once more, unless gradients are views of them.
    """
    return 0 if run.strategy != "ddp" or ranks == 1 else trained if run.bucket_views else 2 * trained


def verdict(need: Need, gpu: Gpu, assumed: Mapping[str, Assumption]) -> str:
    """Return ``fits``, ``tight`` where only the best case fits, or ``does not fit``."""
    if need.whole(assumed, "worst") <= gpu.memory:
        return "fits"
    return "tight" if need.whole(assumed, "best") <= gpu.memory else "does not fit"


def largest_batch(need: Need, run: RunConfig, gpu: Gpu, assumed: Mapping[str, Assumption]) -> int:
    """Return the largest micro-batch that fits also in the worst case; 0 where none does."""
    if need.image <= 0:
        return run.batch_size
    room = (gpu.memory - need.whole(assumed, "worst")) / (need.image * (1 + assumed["fragments"].worst))
    return max(0, run.batch_size + int(room // 1))


def remedies(need: Need, run: RunConfig, gpu: Gpu, assumed: Mapping[str, Assumption], ranks: int) -> list[str]:
    """Return what would make a run fit that does not, or only tightly."""
    if verdict(need, gpu, assumed) == "fits":
        return []
    found = []
    for batch in range(largest_batch(need, run, gpu, assumed), 0, -1):
        if run.batch_size % batch == 0 and batch % run.crops == 0 and batch < run.batch_size:
            window = run.window * run.batch_size // batch
            found.append(f"data.batch_size: {batch} with trainer.accumulate_grad_batches: {window} (the same images a step)")
            break
    if not run.checkpointing:
        found.append("checkpointing: true of backbone and conditioner, which computes the forward pass twice")
    sharded = Need(need.peak - need.resident * (1 - 1 / max(ranks, 2)), need.resident, need.image, True)
    if run.strategy == "ddp" and ranks > 1 and verdict(sharded, gpu, assumed) != "does not fit":
        found.append(f"--config configs/fsdp2.yaml, which slices {need.resident / GIB:.1f} GiB of weights and states over {ranks} GPUs")
    larger = [name for name, other in GPUS.items() if other.memory > gpu.memory and verdict(need, other, assumed) == "fits"]
    if larger:
        found.append(f"a larger GPU: {', '.join(larger)}")
    return found


def memory_rows(need: Need, run: RunConfig, gpu: Gpu, assumed: Mapping[str, Assumption], ranks: int) -> dict[str, Any]:
    """Return the memory of a rank as rows for JSON; sizes in GiB."""
    return {
        "verdict": verdict(need, gpu, assumed),
        "peak_gib": need.peak / GIB,
        "resident_gib": need.resident / GIB,
        "image_gib": need.image / GIB,
        "process_gib": [need.whole(assumed, end) / GIB for end in ("best", "worst")],
        "gpu_gib": gpu.memory / GIB,
        "batch_size": run.batch_size,
        "largest_batch": largest_batch(need, run, gpu, assumed),
        "remedies": remedies(need, run, gpu, assumed, ranks),
    }
