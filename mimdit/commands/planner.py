"""The work of ``mimdit plan``: read the config and its data, count, predict."""

import pydoc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules.shards import ShardIndex, ShardStore, is_remote, open_index
from datamodules.shards.latents import LatentRecord
from mimdit.backbone.dit import DiTBackbone
from mimdit.commands.trainer import parse
from mimdit.planning import simulated_gpu
from mimdit.planning.assumptions import with_given
from mimdit.planning.counting import count_config
from mimdit.planning.hardware import find_gpu
from mimdit.planning.lints import lints
from mimdit.planning.measured import read_measured
from mimdit.planning.model_shapes import build
from mimdit.planning.prediction import Setting, predict
from mimdit.planning.run_config import RunConfig, read_run
from mimdit.planning.step_time import Links
from mimdit.planning.training_data import TrainingData

_HALF_BYTES = 2


def make_plan(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan as a dictionary for JSON and `mimdit.planning.text.render`.

    Args:
        arguments: Arguments of ``mimdit plan``. The process is only good for plans on GPUs of this kind afterwards.

    Raises:
        ValueError: As for ``mimdit plan``.
    """
    assumed, gpu = with_given(arguments["assume"]), find_gpu(arguments["gpu"])
    config = parse(["fit", *(word for file in arguments["config"] for word in ("--config", file)), *arguments["options"]])
    run = read_run(config)
    measured = None if arguments["measured"] is None else read_measured(arguments["measured"], run.batch_size * run.window)
    simulated_gpu.install(gpu.capability)
    data, because = _training_data(config, run, arguments["samples"], arguments["latents"])
    links = Links(arguments["gpus"], arguments["nodes"], gpu.nvlink, arguments["link"] * 1e9 / 8)
    sizes = _sizes(links, run)
    others = [each.ranks for each in sizes if each.ranks != links.ranks]
    whole = measured is not None and measured.peak is not None
    counts = count_config(config["model"], run, data.latents, links, others, whole=whole)
    plan = predict(counts, Setting(run, gpu, links, data, assumed, measured), sizes)
    facts = f"{gpu.memory / 2**30:.1f} GiB, {gpu.bandwidth / 1e12:g} TB/s, {gpu.speed('half') / 1e12:g} TFLOP/s in 16 bit"
    plan |= {
        "schema": 1,
        "config": arguments["config"],
        "nodes": links.nodes,
        "gpus": links.gpus,
        "gpu": gpu.name,
        "gpu_facts": f"{facts}, {gpu.nvlink / 1e9:g} GB/s to the GPUs of its node (data sheet)",
        "link": arguments["link"],
        "latents_because": because,
        "measured": None if measured is None else {"file": arguments["measured"], "device": measured.device},
        "torch": torch.__version__,
    }
    return plan | {"lints": lints(plan, run)}


def _sizes(links: Links, run: RunConfig) -> list[Links]:
    """Return the numbers of GPUs for the table: by formula eight; where each is counted, a few around the planned one."""

    def sized(nodes: int) -> Links:
        return Links(links.gpus, nodes, links.nvlink, links.network)

    if run.strategy == "fsdp2":
        return [sized(nodes) for nodes in sorted({1, max(1, links.nodes // 4), links.nodes, links.nodes * 4})]
    nodes = sorted({1, 2, 4, 8, 16, 32, 64, links.nodes})
    return [Links(1, 1, links.nvlink, links.network), *map(sized, nodes)] if links.gpus > 1 else list(map(sized, nodes))


def _training_data(config: Mapping[str, Any], run: RunConfig, samples: int | None, latents: bool | None) -> tuple[TrainingData, str]:
    """Return the training data, and why it is taken for latents or images."""
    codec = next(part.codec for part in build(config["model"]).modules() if isinstance(part, DiTBackbone))
    size = 2 * 2 * codec.channels * (run.crop // codec.downscale) ** 2 * _HALF_BYTES  # two posteriors, mean and log-variance, in fp16
    index = _index(config, run)
    if latents is not None:
        because = "given"
    elif index is not None:
        latents = LatentRecord.of(index) is not None and bool(config["data"]["init_args"].get("latents", True))
        because = "read from the data's index"
    else:
        latents = any("latent" in place for place in run.train) and bool(config["data"]["init_args"].get("latents", True))
        because = "guessed from the name of data.train: the data is not here"
    if samples is None and index is not None:
        samples = _samples(index, config["data"])
    return TrainingData(latents, samples, size), because


def _index(config: Mapping[str, Any], run: RunConfig) -> ShardIndex | None:
    """Return the index of the training data; None where it is not here."""
    if not run.train or any(is_remote(place) or not Path(place).exists() for place in run.train):
        return None
    return open_index(list(run.train), ShardStore())


def _samples(index: ShardIndex, data: Mapping[str, Any]) -> int:
    """Return the samples of the groups that training reads."""
    kind = pydoc.locate(data["class_path"])
    assert isinstance(kind, type), "the parser found it"
    groups = getattr(kind(**data["init_args"]), "groups", None)
    return sum(sum(shard.samples for shard in shards) for group, shards in index.groups.items() if groups is None or group in groups)
