"""Scores: every metric that papers report, for output and input of every image of any number of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image

from callbacks.quality import run_settings
from mimdit.core.files import replace_when_whole
from mimdit.evaluation.iqa.fid_kid import InceptionFeatures, set_distances
from mimdit.evaluation.iqa.metric import DEFAULT_METRICS, metrics_named
from mimdit.evaluation.iqa.scorer import Scorer
from mimdit.evaluation.iqa.summary import Row, each_once, summarize
from mimdit.evaluation.iqa.table import table
from mimdit.routing.routing import Routing

_Image = tuple[str, str, str]
"""Benchmark, group and key."""


class Scores(L.Callback):
    """Score every image of a test through pyiqa, over all ranks, each once, and write what came out.

    The trainer's ``default_root_dir`` gets ``results.jsonl``, an image a line with ``benchmark``, ``group``, ``key``, ``degradations``,
    ``output`` and ``input`` by metric (null: no score), and ``notes`` with the reason for each null; and ``results.json``, the means by
    benchmark (see `mimdit.evaluation.iqa.summary.summarize`) and what they depend on. Before the first image is restored it is checked
    which weights are there; nothing is downloaded, and a metric that lacks some is left out and says so. (ours)

    Args:
        metrics: Metrics by name (``mimdit metrics list``), for all benchmarks; null is `mimdit.evaluation.iqa.DEFAULT_METRICS`. A benchmark
            may ask for more.
        floats: Score the values that the model returned instead of those that an 8-bit file would hold.
        images: Whether to keep the outputs as PNG, in ``images/<benchmark>/<group>/<key>.png``.
        routing: Whether a line also tells what the gates decided: ``routing`` with the probabilities ``inter`` by block and group, and
            ``intra`` by block, group and sub-expert.
        folder: Where to write; null is the trainer's ``default_root_dir``.

    Raises:
        ValueError: A metric is not known.
    """

    def __init__(
        self,
        metrics: list[str] | None = None,
        floats: bool = False,
        images: bool = False,
        routing: bool = False,
        folder: str | None = None,
    ) -> None:
        self.metrics = list(DEFAULT_METRICS if metrics is None else metrics)
        metrics_named(self.metrics)
        self.floats, self.images, self.routing, self.folder = floats, images, routing, folder
        self._wanted: dict[str, list[str]] = {}
        self._sets: dict[str, str | None] = {}
        self._rows: list[Row] = []
        self._features: dict[_Image, dict[str, np.ndarray]] = {}
        self._scorer: Scorer | None = None
        self._inception: InceptionFeatures | None = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the weights and load the metrics.

        Raises:
            ValueError: A benchmark asks for a metric that is not known.
        """
        self._rows, self._features = [], {}
        extra = {name: protocol["metrics"] for name, protocol in _protocols(trainer).items()}
        self._wanted = {name: list(dict.fromkeys([*self.metrics, *metrics])) for name, metrics in extra.items()}
        named = metrics_named(name for metrics in [self.metrics, *self._wanted.values()] for name in metrics)
        missing: dict[str, str] = {}
        for part in _of_all_ranks({metric.name: problem for metric in named if (problem := metric.problem()) is not None}):
            missing = part | missing
        for name, problem in missing.items():
            rank_zero_info(f"Scores: {name} is left out: {problem}")
        self._sets = {metric.name: missing.get(metric.name) for metric in named if metric.of_sets}
        for first in (True, False):
            if (trainer.local_rank == 0) is first:  # LIQE writes what it computes of its prompts beside its weights
                names = [metric.name for metric in named]
                self._scorer = Scorer(names, device=pl_module.device, floats=self.floats, without=missing)
                if any(problem is None for problem in self._sets.values()):
                    self._inception = InceptionFeatures(pl_module.device)
            trainer.strategy.barrier("Scores")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch, image by image."""
        for index, (group, key) in enumerate(zip(batch["group"], batch["key"], strict=True)):
            sides = {"output": outputs["restored"], "input": batch["lq"], "truth": batch.get("gt")}
            sides = {side: None if images is None else images[index : index + 1] for side, images in sides.items()}
            row = {"benchmark": batch["benchmark"][index], "group": group, "key": key, "degradations": batch["degradations"][index]}
            row |= self._score(row["benchmark"], sides)
            if self.routing and outputs.get("routing") is not None:
                row["routing"] = routing_of(outputs["routing"], index)
            self._rows.append(row)
            if self._inception is not None and sides["truth"] is not None:
                self._features[row["benchmark"], group, key] = {side: self._inception(image) for side, image in sides.items()}
            if self.images:
                self._keep(Path(row["benchmark"], group, key), sides["output"], trainer)

    def _score(self, benchmark: str, sides: dict[str, torch.Tensor | None]) -> dict[str, dict]:
        """The scores of an image and of its input, and the reasons where there is none."""
        scored, notes = {}, {}
        for side in ("output", "input"):
            scored[side], reasons = self._scorer.score(sides[side], sides["truth"], self._wanted.get(benchmark, self.metrics))
            notes |= reasons
        return scored | {"notes": notes}

    def _keep(self, place: Path, image: torch.Tensor, trainer: L.Trainer) -> None:
        path = self._folder(trainer) / "images" / place.with_name(place.name + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (image[0].detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        with replace_when_whole(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather all images and write the results on rank 0."""
        parts = _of_all_ranks((self._rows, self._features))
        if not trainer.is_global_zero:
            return
        protocols = _protocols(trainer)
        rows = each_once((row for part, _ in parts for row in part), protocols)
        features = {image: found for _, part in parts for image, found in part.items()}
        benchmarks = summarize(rows)
        for name, summary in benchmarks.items():
            self._add_sets(name, summary, [found for image, found in sorted(features.items()) if image[0] == name])
            if name in protocols:
                summary["protocol"] = protocols[name]
        settings = run_settings(trainer, pl_module) | {"values": "floats" if self.floats else "round(clamp x 255)"}
        missing = self._scorer.missing | {name: problem for name, problem in self._sets.items() if problem}
        results = {"benchmarks": benchmarks, "missing_weights": missing, "settings": settings}
        folder = self._folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        with replace_when_whole(folder / "results.jsonl") as path:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with replace_when_whole(folder / "results.json") as path:
            path.write_text(json.dumps(results, indent=2) + "\n")
        tables = [table(_title(name, protocols.get(name, {})), summary) for name, summary in benchmarks.items()]
        rank_zero_info("\n" + "\n\n".join(tables) + f"\n\nScores: {len(rows)} images are in {folder / 'results.jsonl'}")

    def _add_sets(self, benchmark: str, summary: dict[str, Any], features: list[dict[str, np.ndarray]]) -> None:
        """Put FID and KID, where they are wanted, beside the means over images."""
        means = summary["mean_of_images"]
        for metric in metrics_named(self._wanted.get(benchmark, self.metrics)):
            if not metric.of_sets:
                continue
            for side in ("input", "output"):
                score, reason = None, "weights missing" if self._sets[metric.name] else "no ground truth"
                if features:
                    sets = (np.stack([each[name] for each in features]) for name in (side, "truth"))
                    scores, reasons = set_distances([metric.name], *sets)
                    score, reason = scores[metric.name], reasons.get(metric.name)
                means[side][metric.name] = score
                summary["mean_of_groups"][side][metric.name] = None
                for part in [summary.get("isolated"), summary.get("coupled"), *summary["groups"].values()]:
                    if part is not None:
                        part[side][metric.name] = None
            if score is None:
                summary["notes"][metric.name] = {reason: means["images"]}

    def _folder(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir if self.folder is None else self.folder)


def routing_of(routing: Routing, index: int) -> dict[str, list]:
    """What the gates decided for one image: probabilities by block and group, and by block, group and sub-expert that exists."""
    intra = [
        [probs[index][exists].tolist() for probs, exists in zip(block, routing.mask_GE.to(block.device).bool())]
        for block in routing.intra.probs
    ]
    return {"inter": routing.inter.probs[:, index].tolist(), "intra": intra}


def _title(name: str, protocol: dict[str, Any]) -> str:
    """A benchmark's name in the table, with what was done to its images."""
    return f"{name} (crop {protocol['crop']})" if protocol.get("crop", 1) > 1 else name


def _protocols(trainer: L.Trainer) -> dict[str, dict[str, Any]]:
    """What the data module tells of each benchmark."""
    return getattr(trainer.datamodule, "protocols", {})


def _of_all_ranks(part: Any) -> Iterable[Any]:
    """Each rank's part, on every rank; a collective."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return [part]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, part)
    return gathered
