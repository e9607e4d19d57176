"""Scores of images: Scores for tests, with the metrics that papers report, and Quality for validation while training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image

from mimdit.core.batch import ATOMS
from mimdit.core.collectives import gather
from mimdit.core.connected_trainer import connected
from mimdit.core.files import replace_when_whole
from mimdit.evaluation.iqa.fid_kid import InceptionFeatures, set_distances
from mimdit.evaluation.iqa.metric import DEFAULT_METRICS, metrics_named
from mimdit.evaluation.iqa.scorer import Scorer
from mimdit.evaluation.metrics import PSNR_OF_IDENTICAL, identical
from mimdit.evaluation.results import DATA_MODULE_TEST_SET, RESULTS_NAME, Results, write_results
from mimdit.evaluation.summary import SIDES, ScoreRow, format_summary, image_of, sides_of, summarize, unique_rows
from mimdit.restorer.restorer import Restorer
from mimdit.routing.routing import Routing

VARIANTS = SIDES[2:]
"""Outputs of a step, besides the restored image, that can be scored: the estimate, and two ablations of a test."""


class Scores(L.Callback):
    """Score every image of a test, over all ranks, each once, and write the results.

    The trainer's ``default_root_dir`` gets ``results.jsonl``, one line per image (see `mimdit.evaluation.summary.ScoreRow`), and
    ``results.json``, the means by test set (see `mimdit.evaluation.summary.summarize`) with the settings they depend on. Before the first
    image is restored the weight files of all metrics are checked; nothing is downloaded, and a metric that lacks files is left out and
    reported. A data module's ``data.test`` is a test set named ``test``. Not in the paper.

    Args:
        metrics: Metrics by name (``mimdit metrics list``), for all test sets; null is `mimdit.evaluation.iqa.DEFAULT_METRICS`. A test set
            may add its own.
        floats: If true, score the values that the model returned instead of those that an 8-bit file would hold.
        images: If true, keep the outputs as PNG, in ``images/<test set>/<group>/<key>.png``.
        routing: If true, a line also has the gates' decisions: ``routing`` with the probabilities ``inter`` by block and expert group, and
            ``intra`` by block, expert group and sub-expert.
        folder: Folder to write to; null is the trainer's ``default_root_dir``.
        variants: Further outputs of the test step to score, of ``estimate``, ``residuals_zeroed`` and ``gates_uniform`` (the last two need
            ``model.test_ablations``); each costs as much as scoring the output.

    Raises:
        ValueError: A metric or a variant is unknown.
    """

    def __init__(
        self,
        metrics: list[str] | None = None,
        floats: bool = False,
        images: bool = False,
        routing: bool = False,
        folder: str | None = None,
        variants: list[str] | None = None,
    ) -> None:
        self.metrics = list(DEFAULT_METRICS if metrics is None else metrics)
        metrics_named(self.metrics)
        self.floats, self.images, self.routing, self.folder = floats, images, routing, folder
        self.variants = list(variants or [])
        if unknown := sorted(set(self.variants) - set(VARIANTS)):
            raise ValueError(f"variants {', '.join(unknown)} are unknown; choose from {', '.join(VARIANTS)}")
        self._wanted: dict[str, list[str]] = {}
        self._sets: dict[str, str | None] = {}
        self._rows: list[ScoreRow] = []
        self._features: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
        self._scorer: Scorer  # from the start of a test or a validation on
        self._inception: InceptionFeatures | None = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the weights and load the metrics.

        Raises:
            ValueError: A test set adds an unknown metric.
        """
        self._rows, self._features, self._inception = [], {}, None
        extra = {name: protocol["metrics"] for name, protocol in _protocols(trainer).items()}
        self._wanted = {name: list(dict.fromkeys([*self.metrics, *metrics])) for name, metrics in extra.items()}
        named = metrics_named(name for metrics in [self.metrics, *self._wanted.values()] for name in metrics)
        missing: dict[str, str] = {}
        for part in gather({metric.name: problem for metric in named if (problem := metric.problem()) is not None}):
            missing = part | missing
        for name, problem in missing.items():
            rank_zero_info(f"Scores: {name} is left out: {problem}")
        self._sets = {metric.name: missing.get(metric.name) for metric in named if metric.of_sets}
        for first in (True, False):
            if (trainer.local_rank == 0) is first:  # one rank per node goes first: LIQE stores its prompts' features beside its weights
                names = [metric.name for metric in named]
                self._scorer = Scorer(names, device=pl_module.device, floats=self.floats, without=missing)
                if any(problem is None for problem in self._sets.values()):
                    self._inception = InceptionFeatures(pl_module.device)
            trainer.strategy.barrier("Scores")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch, image by image; do nothing if the module restores nothing."""
        if not _restores(outputs):
            return
        for index, group in enumerate(batch["group"]):
            row = self._score(outputs, batch, index, DATA_MODULE_TEST_SET)
            if self.routing and outputs.get("routing") is not None:
                row["routing"] = routing_of(outputs["routing"], index)
            self._rows.append(row)
            batches = {"output": outputs["restored"], "input": batch["lq"], "truth": batch.get("gt")}
            sides: dict[str, torch.Tensor] = {side: images[index : index + 1] for side, images in batches.items() if images is not None}
            if self._inception is not None and "truth" in sides:
                self._features[image_of(row)] = {side: self._inception(image) for side, image in sides.items()}
            if self.images:
                self._keep(Path(row["test_set"], group, row["key"]), sides["output"], trainer)

    def _score(self, outputs: Mapping[str, Any], batch: Mapping[str, Any], index: int, test_set: str) -> dict[str, Any]:
        """Return the row of one image of a batch; ``test_set`` is used if the batch names none."""
        group, name = batch["group"][index], batch["test_set"][index] if "test_set" in batch else test_set
        degraded, truth = batch["lq"][index : index + 1], batch.get("gt")
        truth = None if truth is None else truth[index : index + 1]
        present = batch["degradation"][index].tolist()
        atoms = [atom for atom, there in zip(ATOMS, present) if there]
        row: dict[str, Any] = {
            "test_set": name,
            "group": group,
            "key": batch["key"][index].removeprefix(f"{group}/"),
            "degradations": batch["degradations"][index] if "degradations" in batch else atoms,
            "identical_input": truth is not None and bool(identical(degraded, truth)),
        }
        images = {"output": outputs["restored"][index : index + 1], "input": degraded}
        images |= {side: outputs[side][index : index + 1] for side in self.variants if outputs.get(side) is not None}
        notes: dict[str, str] = {}
        for side, image in images.items():
            row[side], reasons = self._scorer.score(image, truth, self._wanted.get(name, self.metrics))
            notes |= reasons
        return row | {"notes": notes}

    def _keep(self, place: Path, image: torch.Tensor, trainer: L.Trainer) -> None:
        path = self._path(trainer).parent / "images" / place.with_name(place.name + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (image[0].detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        with replace_when_whole(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather all images and write the results on rank 0."""
        self._finish_test(trainer, pl_module)

    def _finish_test(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, dict[str, Any]]:
        """Return the means by test set on all ranks; rank 0 writes them."""
        parts = gather((self._rows, self._features))
        protocols = _protocols(trainer)
        rows = unique_rows((row for part, _ in parts for row in part), protocols)
        if not rows:
            rank_zero_warn(f"{type(self).__name__}: the test step returned no restored image, so there are no results")
            return {}
        summaries = summarize(rows)
        if trainer.is_global_zero:
            features = {image: found for _, part in parts for image, found in part.items()}
            for name, summary in summaries.items():
                self._add_set_distances(name, summary, [found for image, found in sorted(features.items()) if image[0] == name])
                if name in protocols:
                    summary["protocol"] = protocols[name]
            missing = self._scorer.missing | {name: problem for name, problem in self._sets.items() if problem}
            results = Results(summaries, rows, self._settings(trainer, pl_module), missing)
            rows_path = write_results(self._path(trainer), results)
            self._announce(results, rows_path)
        return summaries

    def _settings(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return run_settings(trainer, pl_module) | {"values": "floats" if self.floats else "round(clamp x 255)"}

    def _announce(self, results: Results, rows_path: Path) -> None:
        """Print the tables."""
        tables = [format_summary(_title(name, summary.get("protocol", {})), summary) for name, summary in results.summaries.items()]
        rank_zero_info("\n" + "\n\n".join(tables) + f"\n\nScores: {len(results.rows)} images are in {rows_path}")

    def _add_set_distances(self, test_set: str, summary: dict[str, Any], features: list[dict[str, np.ndarray]]) -> None:
        """Add FID and KID, if they are chosen, to the means over images."""
        means = summary["mean_of_images"]
        for metric in metrics_named(self._wanted.get(test_set, self.metrics)):
            if not metric.of_sets:
                continue
            for side in ("input", "output"):
                score, reason = None, "weights missing" if self._sets[metric.name] else "no ground truth"
                if features:
                    sets = (np.stack([each[name] for each in features]) for name in (side, "truth"))
                    scores, reasons = set_distances([metric.name], *sets)
                    score, reason = scores[metric.name], reasons.get(metric.name)
                means[side][metric.name] = score
                for part in [summary.get("isolated"), summary.get("coupled"), summary["mean_of_groups"], *summary["groups"].values()]:
                    if part is not None:
                        part[side][metric.name] = None
            if score is None:
                summary["notes"][metric.name] = {reason: means["images"]}

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir if self.folder is None else self.folder) / RESULTS_NAME


class Quality(Scores):
    """Log PSNR and SSIM of validation, and score a test by them unless a `Scores` callback does.

    The metrics are ``psnr_rgb`` and ``ssim_rgb`` of 8-bit RGB: see `mimdit.evaluation.metrics`. Validation logs ``val/psnr_output``,
    ``val/psnr_input``, ``val/psnr_estimate``, the same for SSIM, and ``val/psnr_gain`` (output minus input), averaged over images, for
    checkpoint callbacks to monitor; and by degradation group ``val_groups/<group>/…``, in a section of its own on TensorBoard's page. A
    test logs ``test/…`` and writes the results of `Scores`, with the estimate and the ablations that the test step returns. Groups whose
    inputs all equal their truths are in no average. Not in the paper.

    Args:
        path: JSON file that a test writes, with the images' rows beside it as ``.jsonl``; null for ``results.json`` in the trainer's
            ``default_root_dir``.
        settings: Further entries of the results' ``settings``.
    """

    NAMES = {"psnr": "psnr_rgb", "ssim": "ssim_rgb"}
    """Metrics by their names in the tags of scalars."""

    def __init__(self, path: str | None = None, settings: dict[str, Any] | None = None) -> None:
        super().__init__([*self.NAMES.values()], variants=[*VARIANTS])
        self.path, self.settings = path, settings or {}
        self._failure: Exception | None = None
        self._tests = True

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier scores."""
        self._rows, self._failure, self._wanted = [], None, {}
        self._scorer = Scorer(self.metrics, device=pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch; do nothing if the module restores nothing."""
        if not _restores(outputs) or self._failure is not None:
            return
        try:
            self._rows += [self._score(outputs, batch, index, "validation") for index in range(len(batch["key"]))]
        except ValueError as error:  # raised at the end of validation, on every rank: otherwise the others would wait
            self._failure = error

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the averages over all images and over each group.

        Raises:
            ValueError: An image could not be scored, such as one with values that are not finite; on every rank.
        """
        parts = gather((self._rows, self._failure))
        for _, failure in parts:
            if failure is not None:
                raise failure
        if rows := unique_rows(row for part, _ in parts for row in part):
            summary = summarize(rows)["validation"]
            self._log(pl_module, "val", summary["mean_of_images"])
            for name, means in summary["groups"].items():
                self._log(pl_module, f"val_groups/{name}", means)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare the metrics, unless a `Scores` callback writes the same file."""
        callbacks = connected(trainer).callbacks
        others = [callback for callback in callbacks if isinstance(callback, Scores) and not isinstance(callback, Quality)]
        self._tests = self.path is not None or not others
        if self._tests:
            super().on_test_start(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a batch; do nothing if the module restores nothing."""
        if self._tests:
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the averages and write the results on rank 0."""
        if not self._tests:
            return
        summaries = self._finish_test(trainer, pl_module)
        for name, summary in summaries.items():
            self._log(pl_module, "test" if len(summaries) == 1 else f"test/{name}", summary["mean_of_images"])

    def _log(self, pl_module: L.LightningModule, prefix: str, means: dict[str, Any]) -> None:
        """Log through the module, for checkpoint callbacks; the values are the same on every rank already."""
        named = {f"{tag}_{side}": means[side].get(metric) for side in sides_of(means) for tag, metric in self.NAMES.items()}
        if named["psnr_input"] is not None and named["psnr_input"] < PSNR_OF_IDENTICAL:
            named["psnr_gain"] = named["psnr_output"] - named["psnr_input"]
        for name, value in named.items():
            if value is not None:
                # The mean of equal values: it declares to Lightning that they are the same on all ranks.
                tag, on_bar = f"{prefix}/{name}", (prefix, name) == ("val", "psnr_output")
                pl_module.log(tag, torch.tensor(value, device=pl_module.device), sync_dist=True, prog_bar=on_bar)

    def _settings(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        return super()._settings(trainer, pl_module) | self.settings

    def _announce(self, results: Results, rows_path: Path) -> None:
        rank_zero_info(f"Quality: scores of {len(results.rows)} images are in {rows_path}, their means beside it")

    def _path(self, trainer: L.Trainer) -> Path:
        return super()._path(trainer) if self.path is None else Path(self.path)


def _restores(outputs: Any) -> bool:
    return isinstance(outputs, Mapping) and "restored" in outputs


def routing_of(routing: Routing, index: int) -> dict[str, list]:
    """Return the probabilities for one image: ``inter`` by block and expert group, ``intra`` also by sub-expert."""
    return {"inter": routing.inter.probs[:, index].tolist(), "intra": routing.intra.probs[:, :, index].tolist()}


def run_settings(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    """Return the settings that scores depend on: seed, ranks, precision, sampler, checkpoint and version of torch.

    Those of a restorer also have ``sampling``, the `mimdit.restorer.sampling.SamplingSettings` of its test.
    """
    noted: dict[str, Any] = {"seed": getattr(pl_module, "seed", None), "ranks": trainer.world_size, "precision": str(trainer.precision)}
    if hasattr(pl_module, "flow"):
        plain = str | int | float | bool | None
        noted["sampler"] = {name: value for name, value in vars(pl_module.flow).items() if isinstance(value, plain)}
    if isinstance(pl_module, Restorer):
        noted["sampling"] = dataclasses.asdict(pl_module.sampling_settings(tile=pl_module.test_tile))
    return noted | {"checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path), "torch": torch.__version__}


def _title(name: str, protocol: dict[str, Any]) -> str:
    """Return a test set's name in the table, with the cropping of its images."""
    return f"{name} (crop {protocol['crop']})" if protocol.get("crop", 1) > 1 else name


def _protocols(trainer: L.Trainer) -> dict[str, dict[str, Any]]:
    """Return the protocol of each test set of the data module."""
    return getattr(getattr(trainer, "datamodule", None), "protocols", {})
