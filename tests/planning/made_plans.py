"""Made counts, and plans of them: a step of one product and one addition, with a gigabyte of gradients."""

from dataclasses import replace
from typing import Any

from mimdit.planning.assumptions import DEFAULTS
from mimdit.planning.fake_step import Counted
from mimdit.planning.hardware import GPUS
from mimdit.planning.lints import lints
from mimdit.planning.prediction import Counts, Setting, predict
from mimdit.planning.run_config import RunConfig
from mimdit.planning.step_time import Links
from mimdit.planning.training_data import TrainingData

GIB = 2**30
GIGABIT = 1e9 / 8

RUN = RunConfig(
    strategy="ddp", shard_over="all", broadcast_buffers=False, bucket_views=False, precision="bf16-mixed", clip=1.0, window=1,
    max_steps=1000, batch_size=8,
    crop=64, crops=1, workers=4, train=("data/latents",), compiled=False, checkpointing=False, sampling_steps=0,
)  # fmt: skip

KERNELS = [
    {"name": "mm", "precision": "half", "flops": 10**12, "bytes": 10**6, "calls": 10, "late_calls": 5},
    {"name": "add", "precision": "single", "flops": 0, "bytes": 10**9, "calls": 20, "late_calls": 0},
]


def made_counts(**options: Any) -> Counts:
    """Counts with some fields of the planned ranks' replaced."""
    counted = Counted(
        peak=40 * GIB, resident=8 * GIB, trained=10**9, buffers=10**8, padding=1.0, flops=10**13, kernels=KERNELS, views=5, waits=0,
        collectives=[],
    )  # fmt: skip
    return Counts(replace(counted, **options), image=4 * GIB, others={})


def made_setting(run: RunConfig = RUN, links: Links | None = None, samples: int | None = 10_000, **options: Any) -> Setting:
    """A setting on H100s, by default on two nodes of eight."""
    gpu = GPUS["h100"]
    links = links or Links(8, 2, gpu.nvlink, 400 * GIGABIT)
    return Setting(
        **{"run": run, "gpu": gpu, "links": links, "data": TrainingData(True, samples, 2**19), "assumed": DEFAULTS, "measured": None}
        | options
    )


def made_plan(counts: Counts | None = None, setting: Setting | None = None) -> dict[str, Any]:
    """A whole plan, as the command makes it."""
    counts, setting = counts or made_counts(), setting or made_setting()
    plan = predict(counts, setting, [setting.links]) | {
        "config": ["made.yaml"], "nodes": setting.links.nodes, "gpus": setting.links.gpus, "gpu": setting.gpu.name, "gpu_facts": "made",
        "link": 400.0, "latents_because": "given", "measured": None,
    }  # fmt: skip
    return plan | {"lints": lints(plan, setting.run)}
