"""Counts of a config: the model is built and its steps run on shapes, as often as a prediction needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mimdit.planning import simulated_gpu
from mimdit.planning.fake_step import Counted, Settings, count
from mimdit.planning.model_shapes import Data, build
from mimdit.planning.prediction import Counts
from mimdit.planning.run_config import RunConfig
from mimdit.planning.step_time import Links


def count_config(
    model: Mapping[str, Any], run: RunConfig, latents: bool, links: Links, others: Sequence[int] = (), *, whole: bool = False
) -> Counts:
    """Return the counts of a model on the GPU that `simulated_gpu.install` put in place.

    Args:
        model: ``class_path`` and ``init_args``.
        run: The rest of the config.
        latents: If true, batches hold cached latents.
        links: Planned GPUs and nodes.
        others: Other numbers of ranks; only FSDP2 needs counts of them.
        whole: If true, also count a whole copy where FSDP2 shards, to compare with figures of one GPU.
    """
    ranks, sharded = links.ranks, run.strategy == "fsdp2"

    def counted(batch: int, on: int, window: int = run.window, **options: Any) -> Counted:
        shares = {"ranks": on, "copies": run.copies(on, links.gpus)} if sharded and on > 1 else {}
        settings = Settings(simulated_gpu.NAME, run.precision, run.clip, window, **shares)
        return count(build(model), Data(batch, run.crop, latents), settings, **options)

    own = counted(run.batch_size, ranks)
    other = run.batch_size // 2 // run.crops * run.crops or run.batch_size + run.crops
    image = (own.peak - counted(other, ranks, min(run.window, 2)).peak) / (run.batch_size - other)
    if not sharded:
        return Counts(own, image, {})
    small = {on: counted(run.crops, on, steps=1) for on in dict.fromkeys((ranks, *others)) if on > 1} if others else {}
    return Counts(
        own,
        image,
        {on: each for on, each in small.items() if on != ranks},
        small=small.get(ranks),
        whole=counted(run.batch_size, 1).peak if whole and ranks > 1 else None,
    )
