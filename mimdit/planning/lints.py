"""Lints of a plan: settings that waste time, links or data, each with its cost and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mimdit.planning.run_config import RunConfig

_PADDED = 1.2


def lints(plan: Mapping[str, Any], run: RunConfig) -> list[str]:
    """Return the lints of a prediction (`mimdit.planning.prediction.predict`)."""
    return [*_padding(plan), *_sharded_validation(plan, run), *_eager(plan, run), *_batch(plan), *_length(plan)]


def _padding(plan: Mapping[str, Any]) -> Iterator[str]:
    padding = plan["bytes"]["padding"]
    if padding > _PADDED:
        yield (
            f"padding: {plan['ranks']} ranks are more than the sharded dimension of some weights, so what is sent for them is padded "
            f"to {padding:.1f} times their size; use fewer ranks, or DDP where it fits"
        )


def _sharded_validation(plan: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
    if run.strategy != "fsdp2" or plan["ranks"] == 1 or not run.sampling_steps:
        return
    gathers = [row for row in plan["bytes"]["collectives"] if row["kind"] == "all-gather"]
    once = sum(row["calls"] * row["size"] for row in gathers) / 2 / run.window  # in a step: before the forward and the backward pass
    yield (
        f"sharded validation: each of the {run.sampling_steps} sampling steps gathers up to {once / 1e9:.1f} GB of weights for every image "
        "and tile, on all ranks; keep trainer.limit_val_batches small, or score checkpoints with mimdit validate on one GPU"
    )


def _eager(plan: Mapping[str, Any], run: RunConfig) -> Iterator[str]:
    limit, parts = plan["step"]["limit"], plan["step"]["parts"]
    if run.compiled or limit not in ("kernel launches", "memory bandwidth"):
        return
    launches, device = ([1e3 * value for value in parts[name]] for name in ("launches", "device"))
    yield (
        f"eager mode: launching {plan['step']['kernels']:,} kernels a step takes the host {launches[0]:.0f} to {launches[1]:.0f} ms, the "
        f"GPU needs {device[0]:.0f} to {device[1]:.0f}; compile: true of backbone and conditioner fuses them"
    )


def _batch(plan: Mapping[str, Any]) -> Iterator[str]:
    images, samples = plan["run"]["images_per_step"], plan["run"]["samples"]
    if samples and images > samples:
        yield f"batch: a step takes {images:,} images, but the data has {samples:,} samples; use fewer GPUs or a smaller batch"


def _length(plan: Mapping[str, Any]) -> Iterator[str]:
    passes, worth = plan["run"]["passes"], plan["assumptions"]["worth"]["best"]
    if passes and passes > worth:
        steps = int(plan["run"]["max_steps"] * worth / passes)
        yield (
            f"schedule: {plan['run']['max_steps']:,} steps are {passes:,.0f} passes over the data, beyond the {worth:,.0f} assumed to "
            f"be worth it; --trainer.max_steps={max(1, steps)} would be that many"
        )
