"""A plan as text. Nothing here imports torch: a cached plan appears at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mimdit.planning.table import columns


def render(plan: Mapping[str, Any]) -> str:
    """Return a plan (`mimdit.planning.prediction.predict`, with the fields that the command adds) as text."""
    sections = [_head(plan), "\n".join([_memory(plan), _speed(plan), *_bytes(plan), _length(plan), _data(plan)]), _table(plan)]
    if plan["lints"]:
        sections.append("Look at\n" + "\n".join(f"  - {lint}" for lint in plan["lints"]))
    sections.append(_assumptions(plan))
    return "\n\n".join(sections)


def _head(plan: Mapping[str, Any]) -> str:
    gpus = f"{plan['nodes']} x {plan['gpus']} {plan['gpu']}"
    images = f"{plan['memory']['batch_size']} images a micro-batch, {plan['run']['images_per_step']:,} a step"
    basis = "step measured on one GPU" if plan["measured"] else "nothing measured: simulated on shapes"
    return f"{' + '.join(plan['config'])}\n{gpus}, {plan['strategy']}, {plan['precision']}, {images}; {basis}"


def _memory(plan: Mapping[str, Any]) -> str:
    memory = plan["memory"]
    low, high = memory["process_gib"]
    text = (
        f"Memory  {memory['verdict']}: tensors {memory['peak_gib']:.1f} GiB at most, the process {low:.1f} to {high:.1f} of "
        f"{memory['gpu_gib']:.1f}\n        {memory['resident_gib']:.1f} GiB between steps, {memory['image_gib']:.2f} an image; the "
        f"largest batch that fits is {memory['largest_batch']}"
    )
    return text + "".join(f"\n        would make it fit: {remedy}" for remedy in memory["remedies"])


def _speed(plan: Mapping[str, Any]) -> str:
    step = plan["step"]
    low, high = step["images_per_second"]
    mfu = _range([100 * value for value in step["mfu"]])
    parts = {"FLOPs": "products", "memory": "traffic", "launches": "launches", "links": "links", "data": "data"}
    each = ", ".join(f"{name} {_ms(step['parts'][part])}" for name, part in parts.items())
    return (
        f"Speed   {low:,.0f} to {high:,.0f} images/s, MFU {mfu} %, a step {_ms(step['seconds'])} ms; limit: {step['limit']}\n"
        f"        by themselves, in ms: {each}; {step['kernels']:,} kernels"
    )


def _bytes(plan: Mapping[str, Any]) -> list[str]:
    moved = plan["bytes"]
    if plan["ranks"] == 1:
        return []
    calls = sum(row["calls"] for row in moved["collectives"])
    padded = f", padded {moved['padding']:.2f} times" if moved["padding"] > 1.005 else ""
    text = f"Bytes   {moved['out_of_gpu_gb']:.3g} GB out of a GPU a step in {calls} collectives{padded}"
    if plan["nodes"] > 1:
        network, given = moved["hiding_network_gbit"], plan["link"]
        state = "enough" if given >= network[1] else "too slow at best speed" if given >= network[0] else "too slow"
        text += (
            f"\n        {moved['over_network_gb']:.3g} GB of it through its network port: {network[0]:.3g} to {network[1]:.3g} Gb/s a GPU "
            f"would hide it, {given:g} is {state}"
        )
    nvlink = moved["hiding_nvlink_gbyte"]
    return [f"{text}\n        the rest inside the node: {nvlink[0]:.3g} to {nvlink[1]:.3g} GB/s would hide it"]


def _length(plan: Mapping[str, Any]) -> str:
    run = plan["run"]
    if run["hours"] is None:
        text = "Run     the config sets no trainer.max_steps"
    else:
        text = f"Run     {run['max_steps']:,} steps: {_range(run['hours'])} hours, {_range(run['gpu_hours'])} GPU hours"
    if run["samples"] is None:
        return text + "\n        passes over the data are not known: the data is not here; give --samples"
    passes = "" if run["passes"] is None else f"{run['passes']:,.1f} passes over "
    return f"{text}\n        {passes}{run['samples']:,} samples"


def _data(plan: Mapping[str, Any]) -> str:
    data = plan["data"]
    kind = "cached latents" if data["latents"] else "images"
    return (
        f"Data    {kind}, {_range(data['megabytes_per_second_and_node'])} MB/s a node; {_range(data['cores_per_gpu'])} cores a GPU, "
        f"{data['workers_per_gpu']} data processes are set"
    )


def _table(plan: Mapping[str, Any]) -> str:
    titles = ["GPUs", "GiB", "", "images/s", "GB out", "hours", "GPU hours", "passes", "limit"]
    rows = [
        [
            f"{row['gpus']:,}",
            f"{row['peak_gib']:.1f}",
            row["verdict"],
            _range(row["images_per_second"]),
            f"{row['out_of_gpu_gb']:.3g}",
            "-" if row["hours"] is None else _range(row["hours"]),
            "-" if row["gpu_hours"] is None else _range(row["gpu_hours"]),
            "-" if row["passes"] is None else f"{row['passes']:,.1f}",
            row["limit"],
        ]
        for row in plan["table"]
    ]
    return columns(titles, rows)


def _assumptions(plan: Mapping[str, Any]) -> str:
    facts = [["--gpu", plan["gpu"], plan["gpu_facts"]], ["--link", f"{plan['link']:g} Gb/s", "network of a GPU to other nodes, one way"]]
    facts.append(["--latents", "true" if plan["data"]["latents"] else "false", plan["latents_because"]])
    rows = [
        [f"{name}={each['best']:g}" + ("" if each["best"] == each["worst"] else f"..{each['worst']:g}"), each["unit"], each["reason"]]
        for name, each in plan["assumptions"].items()
    ]
    return "Assumed (change with --assume name=best..worst)\n" + columns(None, facts) + "\n" + columns(None, rows)


def _ms(seconds: Sequence[float]) -> str:
    return _range([1e3 * value for value in seconds])


def _range(values: Sequence[float]) -> str:
    """Return two numbers with three digits, as one where they are equal."""
    first, last = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return first if first == last else f"{first} to {last}"
