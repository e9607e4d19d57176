"""Prediction of a run from its counts: memory, time, bytes and data, as a dictionary for JSON and for `mimdit.planning.text`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mimdit.planning.assumptions import Assumption
from mimdit.planning.fake_step import Counted
from mimdit.planning.hardware import Gpu
from mimdit.planning.measured import Measured
from mimdit.planning.memory import GIB, Need, bucket_bytes, memory_rows, verdict
from mimdit.planning.run_config import RunConfig
from mimdit.planning.step_time import Links, Range, device_seconds, host_seconds, link_seconds, network_bytes, sent_bytes, step_seconds
from mimdit.planning.training_data import TrainingData

BUCKET = 25 * 2**20
"""Bytes of DDP's buckets, PyTorch's default."""


@dataclass(frozen=True)
class Counts:
    """Counts of a config.

    Attributes:
        own: Counts on the planned number of ranks: of a whole copy under DDP.
        image: Bytes that an image more in the micro-batch adds to the peak.
        others: Under FSDP2, counts of a single step on other numbers of ranks, with the micro-batch that ``small`` has.
        small: Under FSDP2, counts of a single step on the planned number of ranks.
        whole: Peak of a whole copy on one GPU, where figures of one were measured; else None.
    """

    own: Counted
    image: float
    others: Mapping[int, Counted]
    small: Counted | None = None
    whole: int | None = None

    def of(self, ranks: int) -> Counted:
        """Return the counts whose collectives are those of ``ranks``."""
        return self.others.get(ranks, self.own)


@dataclass(frozen=True)
class Setting:
    """Everything that a prediction needs beside the counts."""

    run: RunConfig
    gpu: Gpu
    links: Links
    data: TrainingData
    assumed: Mapping[str, Assumption]
    measured: Measured | None


def collectives(counts: Counts, run: RunConfig, ranks: int) -> list[dict[str, Any]]:
    """Return the collectives of an optimizer step: counted under FSDP2; under DDP those of its gradients and buffers, by formula."""
    counted = counts.of(ranks)
    if ranks == 1:
        return []
    if run.strategy == "fsdp2":
        return counted.collectives
    calls = max(1, math.ceil(counted.trained / BUCKET))
    rows = [{"kind": "all-reduce", "dtype": "float32", "size": counted.trained / calls, "ranks": ranks, "stride": 1, "calls": calls}]
    if run.broadcast_buffers and counted.buffers:
        rows.append({"kind": "broadcast", "dtype": "float32", "size": counted.buffers, "ranks": ranks, "stride": 1, "calls": run.window})
    return rows


def need(counts: Counts, setting: Setting, ranks: int) -> Need:
    """Return the memory of a rank."""
    own, run = counts.own, setting.run
    peak, resident = float(own.peak), float(own.resident)
    if setting.measured is not None and setting.measured.peak is not None:
        peak += setting.measured.peak - (own.peak if counts.whole is None else counts.whole)
    if counts.small is not None and ranks in counts.others:  # the share of the weights differs, the activations do not
        change = counts.others[ranks].resident - counts.small.resident
        peak, resident = peak + change, resident + change
    return Need(peak + bucket_bytes(run, own.trained, ranks), resident, counts.image, ranks > 1)


def step(counts: Counts, setting: Setting, links: Links) -> dict[str, Any]:
    """Return the time of a step on some number of GPUs as rows for JSON."""
    run, gpu, assumed, kernels = setting.run, setting.gpu, setting.assumed, counts.own.kernels
    parts = device_seconds(kernels, gpu, assumed, run.compiled)
    parts["launches"] = host_seconds(kernels, assumed, run.compiled)
    compute = _slower(parts["device"], parts["launches"])
    late = device_seconds(kernels, gpu, assumed, run.compiled, "late_calls")["device"]
    window = _slower(late, host_seconds(kernels, assumed, run.compiled, "late_calls")) if run.strategy == "ddp" else compute
    if setting.measured is not None:
        shares = [part / whole for part, whole in zip(window, compute)]
        compute = (setting.measured.seconds, setting.measured.seconds)
        window = (compute[0] * shares[0], compute[1] * shares[1])
    rows = collectives(counts, run, links.ranks)
    parts["links"] = link_seconds(rows, links, assumed)
    parts["data"] = setting.data.step_seconds(run, assumed)
    seconds = step_seconds(compute, window, parts["links"], parts["data"], assumed)
    images = links.ranks * run.batch_size * run.window
    peak = gpu.speed("half" if "16" in run.precision else "single")
    return {
        "seconds": list(seconds),
        "images_per_second": [images / value for value in reversed(seconds)],
        "mfu": [counts.own.flops / value / peak for value in reversed(seconds)],
        "parts": {name: list(value) for name, value in parts.items()},
        "compute": list(compute),
        "window": list(window),
        "limit": limit(parts, None if setting.measured is None else compute),
    }


def _slower(first: Range, second: Range) -> Range:
    return max(first[0], second[0]), max(first[1], second[1])


LIMITS = {
    "products": "FLOPs",
    "traffic": "memory bandwidth",
    "launches": "kernel launches",
    "links": "links",
    "data": "data cores",
    "measured": "the GPU, as measured",
}
"""Names of what can limit a step, by its part."""


def limit(parts: Mapping[str, Range], measured: Sequence[float] | None) -> str:
    """Return what takes longest in the middle of its range."""
    middle = {name: sum(value) / 2 for name, value in parts.items() if name in LIMITS}
    if measured is not None:
        middle = {name: value for name, value in middle.items() if name in ("links", "data")} | {"measured": sum(measured) / 2}
    return LIMITS[max(middle, key=lambda name: middle[name])]


def moved(counts: Counts, setting: Setting, links: Links) -> dict[str, Any]:
    """Return the bytes out of a GPU in a step, and the links that hide them, as rows for JSON.

    A link hides its part if all of it passes beside computation: under DDP from the first gradient to the end of the backward pass, under
    FSDP2 during the whole step.
    """
    rows = collectives(counts, setting.run, links.ranks)
    window = step(counts, setting, links)["window"]
    outside = network_bytes(rows, links)
    inside = sent_bytes(rows) - outside if links.nodes > 1 else sent_bytes(rows)
    return {
        "out_of_gpu_gb": sent_bytes(rows) / 1e9,
        "over_network_gb": outside / 1e9,
        "hiding_network_gbit": [outside * 8e-9 / value / setting.assumed["links"].best for value in reversed(window)],
        "hiding_nvlink_gbyte": [inside * 1e-9 / value / setting.assumed["links"].best for value in reversed(window)],
        "padding": counts.of(links.ranks).padding,
        "collectives": rows,
    }


def run_length(counts: Counts, setting: Setting, links: Links) -> dict[str, Any]:
    """Return hours, GPU hours and passes over the data as rows for JSON; None where the config has no end."""
    run, seconds = setting.run, step(counts, setting, links)["seconds"]
    hours = None if run.max_steps is None else [run.max_steps * value / 3600 for value in seconds]
    samples, images = setting.data.samples, links.ranks * run.batch_size * run.window
    return {
        "max_steps": run.max_steps,
        "images_per_step": images,
        "hours": hours,
        "gpu_hours": None if hours is None else [value * links.ranks for value in hours],
        "samples": samples,
        "passes": run.max_steps * images / samples if samples and run.max_steps is not None else None,
    }


def data_rates(counts: Counts, setting: Setting, links: Links) -> dict[str, Any]:
    """Return the rate of the data and the cores that it needs as rows for JSON."""
    run, data, assumed = setting.run, setting.data, setting.assumed
    rates = [value / links.ranks for value in step(counts, setting, links)["images_per_second"]]
    cores = data.core_seconds(run, assumed)
    return {
        "latents": data.latents,
        "megabytes_per_second_and_node": [value * links.gpus * data.sample_bytes(run, assumed) * 1e-6 for value in rates],
        "cores_per_gpu": [rates[0] * cores[0], rates[1] * cores[1]],
        "workers_per_gpu": run.workers,
    }


def table(counts: Counts, setting: Setting, sizes: Sequence[Links]) -> list[dict[str, Any]]:
    """Return a row for each number of GPUs."""
    rows = []
    for links in sizes:
        times, length, bytes_ = step(counts, setting, links), run_length(counts, setting, links), moved(counts, setting, links)
        memory = need(counts, setting, links.ranks)
        rows.append(
            {
                "gpus": links.ranks,
                "nodes": links.nodes,
                "peak_gib": memory.peak / GIB,
                "verdict": verdict(memory, setting.gpu, setting.assumed),
                "images_per_second": times["images_per_second"],
                "out_of_gpu_gb": bytes_["out_of_gpu_gb"],
                "padding": bytes_["padding"],
                "limit": times["limit"],
                "hours": length["hours"],
                "gpu_hours": length["gpu_hours"],
                "passes": length["passes"],
            }
        )
    return rows


def predict(counts: Counts, setting: Setting, sizes: Sequence[Links]) -> dict[str, Any]:
    """Return the whole prediction; ``sizes`` are the numbers of GPUs of the table."""
    run, links = setting.run, setting.links
    return {
        "strategy": run.strategy,
        "precision": run.precision,
        "ranks": links.ranks,
        "memory": memory_rows(need(counts, setting, links.ranks), run, setting.gpu, setting.assumed, links.ranks),
        "step": step(counts, setting, links) | {"kernels": sum(row["calls"] for row in counts.own.kernels), "waits": counts.own.waits},
        "bytes": moved(counts, setting, links),
        "run": run_length(counts, setting, links),
        "data": data_rates(counts, setting, links),
        "table": table(counts, setting, sizes),
        "assumptions": {name: asdict(value) for name, value in setting.assumed.items()},
    }
